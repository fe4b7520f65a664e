"""Ends the runs of trials that are over but could not say so: their process had ended, or MLflow was away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.config.errors import FuserayError
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.folder import SweepFolder, TrialRecord
from orchestrator.track.client import TrackingAwayError
from orchestrator.track.run_writer import TrackedRun
from orchestrator.train.run_tools import sync


def tidy(folder: SweepFolder, records: Iterable[TrialRecord], tell: Callable[[str], None]) -> None:
    """Have MLflow and the runs' folders say how they ended, with all figures that they have logged.

    Args:
        folder: the sweep's folder.
        records: what is known of its trials.
        tell: takes messages for the user.
    """
    away = False
    for record in records:
        if not record.is_over:
            continue
        run = folder.run(record.run or record.name)
        try:
            file = _ended(run, "FAILED" if record.status == "FAILED" else "KILLED")
            if file is not None and not away:
                _catch_up(run, file)
        except TrackingAwayError as error:
            away = True
            tell(f"warning: {error} What it lacks of a trial, `fuseray sync {run.root.uri}` brings there.")
        except FuserayError as error:
            tell(f"warning: {record.name}: {error}")


def _ended(run: RunFolder, status: str) -> RunFile | None:
    """Return what a run remembers, with a status where it had not ended; None when there is no run."""
    if not run.exists():
        return None
    file = run.read()
    if file.status == "RUNNING":
        file = replace(file, status=status, ended=datetime.now(UTC).isoformat(timespec="milliseconds"))
        run.write(file)
    return file


def _catch_up(run: RunFolder, file: RunFile) -> None:
    if TrackedRun(file.tracking_uri, file.mlflow_run_id).status() != file.status:
        sync(run)
