"""The workers of a run measure its model together, between two steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.evaluate.features import SpillingFeatures
from orchestrator.evaluate.held_out import HeldOutSamples, Measurement
from orchestrator.evaluate.measure import Executor, InProcess, Measuring
from orchestrator.evaluate.shared import Exchange, ExchangeClient, SharedExecutor, ShareError
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.unusable import write_unusable
from orchestrator.train.parallel.base import Collective
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.classify import evaluation_error
from workloads.contract import EvaluationOptions, Evaluator, Workload


def held_out_of(plan: Plan) -> HeldOutSamples | None:
    """Return the samples that a run is measured on while it trains; None without any.

    Raises:
        DataSetError: the data set holds none.
    """
    if plan.held_out is None or plan.held_out_index is None:
        return None
    options, limit = plan.resolved.evaluation, plan.recipe.evaluation.samples
    return HeldOutSamples.of(plan.held_out, plan.held_out_index, options.block, limit)


@dataclass(frozen=True)
class WorkersEvaluation:
    """One worker's part in the evaluations of a run.

    Args:
        plan: the plan.
        held_out: the samples.
        exchange: with the other workers; None when there is no other.
        rank: this worker's.
        log: is passed messages for the user.
    """

    plan: Plan
    held_out: HeldOutSamples
    exchange: ExchangeClient | None
    rank: int
    log: Callable[[str], None]

    @classmethod
    def of(
        cls, plan: Plan, collective: Collective, broadcast: Callable[[Any], Any], log: Callable[[str], None]
    ) -> WorkersEvaluation | None:
        """Return the worker's part, None when nothing is measured; all workers call it together.

        Args:
            plan: the plan.
            collective: the other workers.
            broadcast: returns worker 0's value on all workers.
            log: is passed messages for the user.
        """
        section = plan.recipe.evaluation
        inside = section.every_steps is not None and not plan.measures_beside
        held_out = held_out_of(plan) if inside else None
        if held_out is None:
            return None
        client = None
        if collective.size > 1:
            actor: Any = ray.remote(Exchange).options(num_cpus=0)
            exchange = broadcast(actor.remote(collective.size) if collective.rank == 0 else None)
            client = ExchangeClient(exchange, collective.rank, collective.size)
        return cls(plan, held_out, client, collective.rank, log)

    @property
    def options(self) -> EvaluationOptions:
        """The workload's options while training."""
        return self.plan.resolved.evaluation.while_training()

    def run(self, workload: Workload) -> dict[str, float]:
        """Measure; all workers call it together, between steps.

        Samples that have gone in the middle of a run cost its metrics, and not the run.

        Returns:
            The metrics as they are logged, on worker 0; none elsewhere, and none when the samples cannot be read.

        Raises:
            EvaluationError: the model could not be evaluated.
        """
        limit_bytes = self.plan.recipe.evaluation.memory_mb * 10**6
        try:
            with workload.evaluator(self.options) as evaluator, SpillingFeatures(limit_bytes) as features:
                measured = Measuring(evaluator, self.held_out, self._executor(evaluator, features)).run()
        except Exception as error:
            if _samples_are_gone(error):
                self.log(f"The held-out samples cannot be read; training goes on without metrics of this step. {error}")
                return {}
            raise evaluation_error(error, self.held_out.folder.uri) from error
        return self._report(measured) if self.rank == 0 else {}

    def _executor(self, evaluator: Evaluator, features: SpillingFeatures) -> Executor:
        if self.exchange is None:
            return InProcess(evaluator, self.held_out, features)
        return SharedExecutor(evaluator, self.held_out, self.exchange)

    def _report(self, measured: Measurement) -> dict[str, float]:
        if text := measured.describe_unusable():
            self.log(text)
        write_unusable(self.plan.run.held_out_quarantine, measured.unusable)
        return {f"held_out/{name}": value for name, value in measured.evaluation.metrics.items()}


def _samples_are_gone(error: Exception) -> bool:
    if isinstance(error, ShareError):
        return error.failure.samples_gone
    return isinstance(error, (StorageError, DataSetError))
