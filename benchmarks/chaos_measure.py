"""What two runs that should be the same have in common: the ledger, the points in MLflow, the losses."""

from __future__ import annotations

from dataclasses import dataclass

import mlflow

from orchestrator.config.loading import ResolvedRecipe
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.train.plan import audit_run


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run came to.

    Args:
        duplicates: samples that came twice in an epoch, and micro-batches that were done twice in different ways.
        gaps: micro-batches that are missing, or have other samples than the order gives.
        mlflow_duplicates: points that came again for the same metric and step.
        losses: the loss in MLflow by step.
    """

    duplicates: int
    gaps: int
    mlflow_duplicates: int
    losses: dict[int, float]


def run_folder(resolved: ResolvedRecipe) -> RunFolder:
    """Return the folder of a recipe's run."""
    recipe = resolved.recipe
    return RunFolder(locate(f"{recipe.storage.uri}/{recipe.name}", recipe.storage.endpoint))


def measure(resolved: ResolvedRecipe) -> Figures:
    """Look at all that a finished run has written.

    Raises:
        FuserayError: the run is not there, or cannot be read.
    """
    run = run_folder(resolved)
    audit = audit_run(run, resolved)
    points = _points(resolved.recipe.tracking.uri, run.read().mlflow_run_id)
    return Figures(
        duplicates=audit.repeated + len(audit.contradictory),
        gaps=len(audit.missing) + len(audit.wrong),
        mlflow_duplicates=sum(len(steps) - len({step for step, _ in steps}) for steps in points.values()),
        losses=dict(points["loss"]),
    )


def loss_difference(one: Figures, other: Figures, steps: int) -> float | None:
    """Return the largest relative difference of the losses of all steps; None when some step is missing."""
    wanted = set(range(steps))
    if one.losses.keys() != wanted or other.losses.keys() != wanted:
        return None
    return max(abs(one.losses[step] - other.losses[step]) / abs(one.losses[step]) for step in wanted)


def _points(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return every point of every metric as step and value."""
    client = mlflow.MlflowClient(None if uri == "environment" else uri)
    names = client.get_run(run_id).data.metrics
    return {name: [(one.step, one.value) for one in client.get_metric_history(run_id, name)] for name in names}
