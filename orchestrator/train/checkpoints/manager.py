"""What a worker writes of a run: its lines of the ledger, the metric log, and its part of the checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

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
from orchestrator.train.checkpoints.tensors import HostBuffers, own_pieces
from orchestrator.train.checkpoints.write import Attempt, Background, Outgoing, Polling, Write, Written
from orchestrator.train.parallel.base import Collective, Parallel
from orchestrator.train.plan import Plan


class Saving:
    """One worker's writing in one attempt.

    What was written down of a step comes before the checkpoint that makes the step count.

    Args:
        plan: the plan.
        mlflow_run_id: where the run is tracked.
        collective: the other workers.
        log: told what went wrong without harm to a checkpoint.
    """

    def __init__(self, plan: Plan, mlflow_run_id: str, collective: Collective, log: Callable[[str], None]) -> None:
        recipe, rank = plan.recipe, collective.rank
        self._plan = plan
        self._mlflow_run_id = mlflow_run_id
        self._collective = collective
        self._ledger = Ledger(plan.run.ledger, rank) if recipe.stream.audit else None
        self._metric_log = MetricLog(plan.run.metrics) if rank == 0 else None
        token = shared_token(collective)
        self._writer = CheckpointWriter(plan.run, rank, collective.size, token, recipe.checkpoint, log)

    def samples(self, step: int, micro_batches: Sequence[MicroBatch]) -> None:
        """Write down which samples a step is made of."""
        if self._ledger is not None:
            self._ledger.add(step, micro_batches)

    def figures(self, line: StepLine) -> None:
        """Write down what was measured at a step; a second line of the step replaces the first."""
        if self._metric_log is not None:
            self._metric_log.add(line)

    def checkpoint(
        self,
        next_step: int,
        fingerprints: tuple[int, ...],
        metrics: Mapping[str, float],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        parallel: Parallel,
    ) -> None:
        """Begin to save; all workers call it together, and the tensors may change when it returns.

        Args:
            next_step: the first step that the checkpoint does not hold.
            fingerprints: of the keys of the last step's micro-batches.
            metrics: figures of the last step.
            model: the model.
            optimizer: of its parameters.
            parallel: how the workers share both.

        Raises:
            CheckpointError: the checkpoint before this one could not be saved.
            StorageError: ledger or metric log could not be written.
        """
        self._flush()
        state = self._state(next_step, fingerprints)
        self._writer.save(state, model.state_dict(), optimizer_tensors(optimizer, model), parallel, metrics)

    def last_write(self) -> dict[str, float]:
        """Return the figures of the last finished write of a checkpoint, once."""
        return self._writer.figures()

    def settle(self) -> None:
        """Wait until what was saved is there for all workers to read; all of them call it together.

        Raises:
            CheckpointError: it could not be saved.
        """
        self._writer.wait()
        self._collective.sum(torch.zeros(1))

    def close(self) -> None:
        """Write what is left.

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


# Saving checkpoints beside training.


@dataclass(frozen=True, slots=True)
class Stall:
    """For how long a save held up training.

    Args:
        waiting_s: seconds until the write before was done.
        staging_s: seconds until all tensors were copied.
    """

    waiting_s: float
    staging_s: float

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.waiting_s + self.staging_s


class CheckpointWriter:
    """Saves a run's checkpoints; every worker has one, and all of them save together.

    A save copies this worker's part of the state; writing the copies goes on in a thread while training does. What
    fails there is raised by the next `save`, `wait` or `close`.

    Args:
        run: the run.
        rank: this worker's number.
        workers: how many there are.
        token: the same on all workers, and different for every start of the workers; see `shared_token`.
        section: which checkpoints stay.
        log: told about what went wrong without harm to a checkpoint.
        waiting: how long worker 0 waits for the others.
    """

    def __init__(
        self,
        run: RunFolder,
        rank: int,
        workers: int,
        token: str,
        section: CheckpointSection,
        log: Callable[[str], None] = lambda _: None,
        waiting: Polling | None = None,
    ) -> None:
        self._run = run
        self._rank = rank
        self._workers = workers
        self._token = token
        self._section = section
        self._log = log
        self._waiting = waiting or Polling()
        self._saves = 0
        self._buffers = HostBuffers()
        self._background = Background[Written]("checkpoint-writer")
        self._figures: dict[str, float] = {}

    def save(
        self,
        state: RunState,
        model: Mapping[str, Tensor],
        moments: Mapping[str, Tensor],
        parallel: Parallel,
        metrics: Mapping[str, float] | None = None,
        extra: Mapping[str, bytes] | None = None,
    ) -> Stall:
        """Begin to save a checkpoint; when this returns, the tensors may change.

        Args:
            state: the run's state.
            model: the model's tensors as this worker holds them.
            moments: what `optimizer_tensors` returned.
            parallel: how the workers share the tensors.
            metrics: figures of the step, which `checkpoint.keep_best` looks at.
            extra: small files that worker 0 saves along, by name; `load_extra` returns them.

        Raises:
            CheckpointError: the checkpoint before this one could not be saved, or this one cannot be.
        """
        waiting_s = self.wait()
        began_s = perf_counter()
        self._saves += 1
        tag = f"{self._token}-{self._saves}"
        folder = self._run.checkpoints / f"step-{state.next_step:08d}"
        attempt = Attempt(folder, state.next_step, tag, self._rank, self._workers)
        files = self._staged(attempt, {MODEL_FILE: model, OPTIMIZER_FILE: moments}, parallel)
        if self._rank == 0:
            small = {**(extra or {}), STATE_FILE: state.encoded()}
            files += [Outgoing(attempt.shared_name(name), name, (content,)) for name, content in small.items()]
        write = Write(self._run, attempt, files, metrics or {}, self._section, self._waiting)
        self._background.start(write.run_now)
        return Stall(waiting_s, perf_counter() - began_s)

    @property
    def idle(self) -> bool:
        """Whether nothing is being written."""
        return self._background.idle

    def wait(self) -> float:
        """Wait until what was saved is written and, on worker 0, committed; return the seconds that this took.

        Raises:
            CheckpointError: it could not be saved; the message says what to do.
        """
        began_s = perf_counter()
        self._enter(self._background.wait())
        return perf_counter() - began_s

    def figures(self) -> dict[str, float]:
        """Return the figures of the write that was finished last, once."""
        self._enter(self._background.take())
        figures, self._figures = self._figures, {}
        return figures

    def close(self) -> None:
        """Wait for the last write and free the memory for copies.

        Raises:
            CheckpointError: it could not be saved.
        """
        try:
            self.wait()
        finally:
            self._buffers = HostBuffers()

    def _enter(self, written: Written | None) -> None:
        if written is None:
            return
        rate = written.size_bytes / 1e6 / max(written.seconds, 1e-9)
        self._figures = {"checkpoint/write_s": written.seconds, "checkpoint/write_mb_per_s": rate}
        for note in written.notes:
            self._log(note)

    def _staged(
        self, attempt: Attempt, contents: Mapping[str, Mapping[str, Tensor]], parallel: Parallel
    ) -> list[Outgoing]:
        files = []
        for content, tensors in contents.items():
            if pieces := own_pieces(tensors, parallel, self._rank, self._workers):
                staged = self._buffers.stage(content, pieces)
                files.append(Outgoing(attempt.own_name(content), content, (staged.header, staged.elements)))
        return files


# A word that the workers of one start have in common and no other start has.


def shared_token(collective: Collective) -> str:
    """Return a word that is the same on all workers and new at every call; all workers call it together."""
    drawn = torch.tensor([secrets.randbits(62) if collective.rank == 0 else 0])
    collective.sum(drawn)
    return f"{int(drawn):016x}"
