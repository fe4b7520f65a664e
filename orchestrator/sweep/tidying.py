"""Ends the runs of trials that are over but whose own process had no time to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.spec.errors import FuserayError
from orchestrator.sweep.folder import SweepFolder, TrialRecord
from orchestrator.train.syncing import sync


def tidy(folder: SweepFolder, records: Iterable[TrialRecord], tell: Callable[[str], None]) -> None:
    """Have MLflow and the runs' folders say that they were stopped, with all figures that they have logged.

    Args:
        folder: the sweep's folder.
        records: what is known of its trials.
        tell: takes messages for the user.
    """
    for record in records:
        if not record.is_over:
            continue
        try:
            _end(folder, record)
        except FuserayError as error:
            tell(f"warning: {record.name}: {error}")


def _end(folder: SweepFolder, record: TrialRecord) -> None:
    run = folder.run(record.run or record.name)
    if not run.exists() or (file := run.read()).status != "RUNNING":
        return
    status = "FAILED" if record.status == "FAILED" else "KILLED"
    run.write(replace(file, status=status, ended=datetime.now(UTC).isoformat(timespec="milliseconds")))
    sync(run)
