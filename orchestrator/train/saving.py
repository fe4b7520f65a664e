"""What a worker writes of a run: its lines of the ledger, the metric log, and its part of the checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from orchestrator.stream.ledger import Ledger
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.state import StreamState
from orchestrator.track.metric_log import MetricLog, StepLine
from orchestrator.train.checkpoints.optimizer_state import optimizer_tensors
from orchestrator.train.checkpoints.state import RunState
from orchestrator.train.checkpoints.token import shared_token
from orchestrator.train.checkpoints.writer import CheckpointWriter
from orchestrator.train.collective import Collective
from orchestrator.train.parallel.protocol import Parallel
from orchestrator.train.plan import Plan


class Saving:
    """One worker's writing in one attempt.

    What was written down of a step comes before the checkpoint that makes the step count.

    Args:
        plan: the plan.
        mlflow_run_id: where the run is tracked.
        collective: the other workers.
        note: told what went wrong without harm to a checkpoint.
    """

    def __init__(self, plan: Plan, mlflow_run_id: str, collective: Collective, note: Callable[[str], None]) -> None:
        recipe, rank = plan.recipe, collective.rank
        self._plan = plan
        self._mlflow_run_id = mlflow_run_id
        self._collective = collective
        self._ledger = Ledger(plan.run.ledger, rank) if recipe.stream.audit else None
        self._metric_log = MetricLog(plan.run.metrics) if rank == 0 else None
        token = shared_token(collective)
        self._writer = CheckpointWriter(plan.run, rank, collective.size, token, recipe.checkpoint, note)

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
