"""Bringing MLflow up to what a run's folder holds."""

from __future__ import annotations

from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.cost import Costs, cost_tags, read_starts
from orchestrator.track.sync import Synced, sync_run
from orchestrator.train.books import read_quarantine
from orchestrator.train.evaluating import run_recipe
from orchestrator.train.figures import Figures, SkippedCounts


def sync(run: RunFolder) -> Synced:
    """Publish what MLflow lacks of a run.

    Raises:
        RunError: there is no run.
        CostFileError: the record of its machines is damaged.
        TrackingError: MLflow cannot be reached, or has no such run.
    """
    file, resolved = run.read(), run_recipe(run)
    skipped = SkippedCounts(read_quarantine(run.quarantine))
    costs = Costs(read_starts(run.costs))
    figures = Figures(file.created, resolved.recipe.batch.samples, skipped, lambda: costs)
    return sync_run(run, resolved.values(), figures.of_all, cost_tags(costs.spent()))
