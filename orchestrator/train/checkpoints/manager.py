"""Saves checkpoints while training continues, after the ledger and metric log of the steps that they contain."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.ledger import Ledger
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.state import StreamState
from orchestrator.track.metric_log import MetricLog, StepLine
from orchestrator.train.checkpoints.load import optimizer_tensors
from orchestrator.train.checkpoints.manifest import MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, RunState
from orchestrator.train.checkpoints.tensors import HostBuffers, local_shards
from orchestrator.train.checkpoints.write import (
    AsyncTask,
    CheckpointWriteJob,
    Polling,
    SaveAttempt,
    StagedFile,
    WriteResult,
)
from orchestrator.train.parallel.base import Collective, Parallel
from orchestrator.train.plan import Plan


class CheckpointManager:
    """Writes one worker's files in one attempt: its lines of ledger and metric log, and its part of the checkpoints.

    The lines of a step are flushed before the checkpoint that makes the step count.

    Args:
        plan: the plan.
        mlflow_run_id: where the run is tracked.
        collective: the other workers.
        log: called with messages about problems that do not affect a checkpoint.
    """

    def __init__(self, plan: Plan, mlflow_run_id: str, collective: Collective, log: Callable[[str], None]) -> None:
        recipe, rank = plan.recipe, collective.rank
        self._plan = plan
        self._mlflow_run_id = mlflow_run_id
        self._collective = collective
        self._ledger = Ledger(plan.run.ledger, rank) if recipe.stream.audit else None
        self._metric_log = MetricLog(plan.run.metrics) if rank == 0 else None
        save_id = broadcast_save_id(collective)
        self._writer = CheckpointWriter(plan.run, rank, collective.size, save_id, recipe.checkpoint, log)

    def log_samples(self, step: int, micro_batches: Sequence[MicroBatch]) -> None:
        """Add the samples of a step to the ledger."""
        if self._ledger is not None:
            self._ledger.add(step, micro_batches)

    def log_metrics(self, line: StepLine) -> None:
        """Add a step to the metric log; a second line of a step replaces the first."""
        if self._metric_log is not None:
            self._metric_log.add(line)

    def save(
        self,
        next_step: int,
        fingerprints: tuple[int, ...],
        metrics: Mapping[str, float],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
        measured_later: bool = False,
    ) -> None:
        """Begin to save; all workers call it together, and the tensors may change when it returns.

        Args:
            next_step: the first step after the checkpoint.
            fingerprints: of the keys of the last step's micro-batches.
            metrics: of the last step.
            model: the model.
            optimizer: of its parameters.
            parallel: how the workers share both.
            measured_later: whether the checkpoint is to be measured beside the training.

        Raises:
            CheckpointError: the checkpoint before this one could not be saved.
            StorageError: ledger or metric log could not be written.
        """
        self._flush()
        state = self._state(next_step, fingerprints)
        tensors = model.state_dict(), optimizer_tensors(optimizer, model)
        self._writer.save(state, *tensors, parallel, metrics, measured_later)

    def last_write_metrics(self) -> dict[str, float]:
        """Return the metrics of the last finished write of a checkpoint, once."""
        return self._writer.write_metrics()

    def wait_until_committed(self) -> None:
        """Wait until all workers can read what was saved; all of them call it together.

        Raises:
            CheckpointError: it could not be saved.
        """
        self._writer.wait()
        self._collective.all_reduce(torch.zeros(1))

    def close(self) -> None:
        """Wait for the last checkpoint and flush the logs.

        Raises:
            CheckpointError: the last checkpoint could not be saved.
            StorageError: ledger or metric log could not be written.
        """
        self._writer.close()
        self._flush()

    def _flush(self) -> None:
        for log in (self._ledger, self._metric_log):
            if log is not None:
                log.flush()

    def _state(self, next_step: int, fingerprints: tuple[int, ...]) -> RunState:
        plan, recipe = self._plan, self._plan.recipe
        return RunState(
            next_step=next_step,
            seed=recipe.seed,
            recipe_digest=plan.resolved.digest(),
            index_digest=plan.data.digest,
            mlflow_run_id=self._mlflow_run_id,
            workload=recipe.workload,
            config=plan.resolved.workload.model_dump(mode="json"),
            epochs=next_step * recipe.batch.samples / plan.data.total,
            stream=StreamState(plan.stream_settings(), fingerprints).plain(),
        )


class CheckpointWriter:
    """Saves a run's checkpoints asynchronously; every worker has one, and all of them save together.

    A save copies this worker's shards; a background thread writes the copies while training continues. An error there
    is raised by the next `save`, `wait` or `close`.

    Args:
        run: the run.
        rank: this worker's rank.
        workers: how many there are.
        save_id: the same on all workers, and different for every start of the workers; see `broadcast_save_id`.
        section: which checkpoints are kept.
        log: called with messages about problems that do not affect a checkpoint.
        polling: how worker 0 waits for the others.
    """

    def __init__(
        self,
        run: RunFolder,
        rank: int,
        workers: int,
        save_id: str,
        section: CheckpointSection,
        log: Callable[[str], None] = lambda _: None,
        polling: Polling | None = None,
    ) -> None:
        self._run = run
        self._rank = rank
        self._workers = workers
        self._save_id = save_id
        self._section = section
        self._log = log
        self._polling = polling or Polling()
        self._saves = 0
        self._buffers = HostBuffers()
        self._task = AsyncTask[WriteResult]("checkpoint-writer")
        self._metrics: dict[str, float] = {}

    def save(
        self,
        state: RunState,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        parallel: Parallel,
        metrics: Mapping[str, float] | None = None,
        measured_later: bool = False,
    ) -> None:
        """Begin to save a checkpoint; when this returns, the tensors may change.

        Args:
            state: the run's state.
            model: the model's tensors as this worker holds them.
            optimizer: what `optimizer_tensors` returned.
            parallel: how the workers share the tensors.
            metrics: of the step, for `checkpoint.keep_best`.
            measured_later: whether the checkpoint is to be measured; until then it is kept.

        Raises:
            CheckpointError: the checkpoint before this one could not be saved, or this one cannot be.
        """
        self.wait()
        self._saves += 1
        tag = f"{self._save_id}-{self._saves}"
        folder = self._run.checkpoints / f"step-{state.next_step:08d}"
        attempt = SaveAttempt(folder, state.next_step, tag, self._rank, self._workers)
        files = self._staged(attempt, {MODEL_FILE: model, OPTIMIZER_FILE: optimizer}, parallel)
        if self._rank == 0:
            files.append(StagedFile(attempt.shared_name(STATE_FILE), STATE_FILE, (state.encoded(),)))
        job = CheckpointWriteJob(self._run, attempt, files, metrics or {}, self._section, self._polling, measured_later)
        self._task.start(job.execute)

    def wait(self) -> None:
        """Wait until what was saved is written and, on worker 0, committed.

        Raises:
            CheckpointError: it could not be saved; the message says what to do.
        """
        self._finish_write(self._task.wait())

    def write_metrics(self) -> dict[str, float]:
        """Return the metrics of the last finished write, once."""
        self._finish_write(self._task.take())
        metrics, self._metrics = self._metrics, {}
        return metrics

    def close(self) -> None:
        """Wait for the last write and free the host buffers.

        Raises:
            CheckpointError: it could not be saved.
        """
        try:
            self.wait()
        finally:
            self._buffers = HostBuffers()

    def _finish_write(self, result: WriteResult | None) -> None:
        if result is None:
            return
        rate = result.size_bytes / 1e6 / max(result.seconds, 1e-9)
        self._metrics = {"checkpoint/write_s": result.seconds, "checkpoint/write_mb_per_s": rate}
        for warning in result.warnings:
            self._log(warning)

    def _staged(
        self, attempt: SaveAttempt, contents: Mapping[str, Mapping[str, Tensor]], parallel: Parallel
    ) -> list[StagedFile]:
        files = []
        for content, tensors in contents.items():
            if shards := local_shards(tensors, parallel, self._rank, self._workers):
                parts = self._buffers.stage(content, shards)
                files.append(StagedFile(attempt.own_name(content), content, parts))
        return files


def broadcast_save_id(collective: Collective) -> str:
    """Return a random id of this start of the workers, broadcast from worker 0; all workers call it together."""
    number = torch.tensor([secrets.randbits(62) if collective.rank == 0 else 0])
    collective.all_reduce(number)
    return f"{int(number):016x}"
