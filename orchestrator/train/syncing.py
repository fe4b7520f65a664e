"""Bringing MLflow up to what a run's folder holds."""

from __future__ import annotations

from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.syncing import Synced, sync_run
from orchestrator.train.books import read_quarantine
from orchestrator.train.evaluating import run_recipe
from orchestrator.train.figures import Figures, SkippedCounts


def sync(run: RunFolder) -> Synced:
    """Publish what MLflow lacks of a run.

    Raises:
        RunError: there is no run.
        TrackingError: MLflow cannot be reached, or has no such run.
    """
    file, resolved = run.read(), run_recipe(run)
    skipped = SkippedCounts(read_quarantine(run.quarantine))
    figures = Figures(file.created, resolved.recipe.batch.samples, skipped)
    return sync_run(run, resolved.values(), figures.of_all)
