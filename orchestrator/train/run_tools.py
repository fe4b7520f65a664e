"""Tools for an existing run: trace steps to samples, find loss spikes, sync to MLflow."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.config.document import Document
from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import ResolvedRecipe, resolve
from orchestrator.config.recipe_paths import follow_moved_folder
from orchestrator.storage.run_folder import RunError, RunFolder
from orchestrator.stream.ledger import read_ledger_step
from orchestrator.stream.micro_batch import read_quarantine
from orchestrator.stream.state import BatchKeys, step_keys, step_micro_batches
from orchestrator.stream.trace import RunRecords, TracedBatch, trace
from orchestrator.track.analysis import Spike, find_spikes
from orchestrator.track.cost import Costs, cost_tags, read_starts
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.sync import SyncResult, sync_to_mlflow
from orchestrator.train.plan import Plan
from orchestrator.train.run_logger import SkippedCounts, StepMetrics


def run_recipe(run: RunFolder) -> ResolvedRecipe:
    """Return the recipe that a run was last started with; data and weights that moved with its folder are found."""
    document = Document.parse(run.recipe.read().decode(), run.recipe.uri)
    resolved = resolve(document, document.to_dict())
    return follow_moved_folder(resolved, run.recorded_root(), run.root.path)


@dataclass(frozen=True, slots=True)
class TracedSpike:
    """A spike of a metric, and the samples of its first step in brief."""

    spike: Spike
    micro_batches: tuple[BatchKeys, ...]


class RunCurves:
    """The metric curves of a run, from where it is tracked.

    Args:
        run: the run.

    Raises:
        RunError: there is no such run.
        TrackingError: MLflow cannot be reached.
    """

    def __init__(self, run: RunFolder) -> None:
        file = run.read()
        self._tracked = TrackedRun(file.tracking_uri, file.mlflow_run_id)

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Return a metric's steps and values.

        Raises:
            ConfigError: the run has no such metric.
        """
        names = self._tracked.metric_names()
        if metric not in names:
            close = difflib.get_close_matches(metric, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names) or 'none yet'}."
            raise ConfigError(f"--metric: the run has no metric {metric!r}; {hint}")
        return self._tracked.curve(metric)

    def at(self, step: int) -> dict[str, float]:
        """Return the training metrics of a step, such as losses and learning rate; none if unknown."""
        names = [name for name in self._tracked.metric_names() if "/" not in name]
        curves = ((name, dict(zip(*self._tracked.curve(name), strict=True))) for name in names)
        return {name: values[step] for name, values in curves if step in values}


def trace_step(plan: Plan, step: int, micro_batch: int | None = None) -> Iterator[TracedBatch]:
    """Return the micro-batches of a step, each read lazily.

    Args:
        plan: of the run, as `plan_of_run` returns it.
        step: from 0.
        micro_batch: only this one of the step's, from 0.

    Raises:
        RunError: the run has no such step, or its steps no such micro-batch.
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run used.
    """
    _check_step(plan, step, micro_batch)
    numbers = step_micro_batches(plan.reader, step)
    lines = read_ledger_step(plan.run.ledger, step) if plan.recipe.stream.audit else None
    notes = RunRecords.of(read_quarantine(plan.run.quarantine), lines)
    selected = numbers if micro_batch is None else numbers[micro_batch : micro_batch + 1]
    return (trace(plan.reader, number, notes) for number in selected)


def step_metrics(run: RunFolder, step: int) -> tuple[dict[str, float], str]:
    """Return the metrics of a step, or none and the reason.

    Raises:
        RunError: there is no such run.
    """
    try:
        metrics = RunCurves(run).at(step)
    except TrackingError as error:
        return {}, str(error)
    return metrics, "" if metrics else "The run has not reported this step."


def trace_spikes(plan: Plan, curves: RunCurves, metric: str, top: int) -> list[TracedSpike]:
    """Return the largest spikes of a metric with the samples of their first steps in brief, the largest first.

    Raises:
        ConfigError: the run has no such metric.
        StorageError: the store is failing.
    """
    spikes = find_spikes(*curves.curve(metric))[:top]
    return [TracedSpike(spike, step_keys(plan.reader, spike.step)) for spike in spikes]


def _check_step(plan: Plan, step: int, micro_batch: int | None) -> None:
    if not 0 <= step < plan.steps:
        raise RunError(f"{plan.run.root.uri}: has no step {step}; its {plan.steps} steps are 0 to {plan.steps - 1}.")
    per_step = plan.recipe.batch.micro_batches
    if micro_batch is not None and not 0 <= micro_batch < per_step:
        raise RunError(
            f"{plan.run.root.uri}: has no micro-batch {micro_batch} in a step; its {per_step} are 0 to {per_step - 1}."
        )


def sync(run: RunFolder) -> SyncResult:
    """Send what MLflow lacks of a run.

    Raises:
        RunError: there is no run.
        CostRecordError: the cost record is damaged.
        TrackingError: MLflow cannot be reached, or has no such run.
    """
    file, resolved = run.read(), run_recipe(run)
    skipped = SkippedCounts(read_quarantine(run.quarantine))
    costs = Costs(read_starts(run.costs))
    metrics = StepMetrics(file.created, resolved.recipe.batch.samples, skipped, lambda: costs)
    return sync_to_mlflow(run, resolved.values(), metrics.of_all, cost_tags(costs.spent()))
