"""Jobs on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from orchestrator.cli.printable import printable

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.client import Job
    from orchestrator.cluster.jobs.history import Entry

COLUMNS = ("job", "status", "run", "cluster", "started", "duration")


def job_row(job_id: str, job: Job | None, entry: Entry | None, now_ms: int) -> dict[str, Any]:
    """Return what is known of a job, from its cluster and from this machine's register, as plain JSON types."""
    return {
        "job": job_id,
        "status": job.status if job else "",
        "run": (job.run if job else "") or (entry.run if entry else ""),
        "run_folder": (job.run_folder if job else "") or (entry.run_folder if entry else ""),
        "cluster": entry.cluster if entry else "",
        "cluster_file": entry.cluster_file if entry else "",
        "started": _time(job.started_ms) if job else (entry.submitted if entry else ""),
        "ended": _time(job.ended_ms) if job else "",
        "seconds": job.seconds(now_ms) if job else None,
        "exit_code": job.code if job and job.is_over else None,
        "failure": job.failure if job else "",
        "problem": "",
    }


def print_jobs(rows: Sequence[Mapping[str, Any]]) -> None:
    """Show jobs as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, no_wrap=True)
    for row in rows:
        shown = dict(row) | {"duration": duration(row["seconds"])}
        table.add_row(*(Text(printable(str(shown[name]))) for name in COLUMNS))
    Console(highlight=False, soft_wrap=True).print(table if rows else "no jobs")


def print_job(row: Mapping[str, Any], progress: str) -> None:
    """Show one job."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    exit_code = "" if row["exit_code"] is None else row["exit_code"]
    shown = {
        **{name: row[name] for name in ("job", "status", "run", "run_folder", "cluster")},
        "progress": progress,
        "started": row["started"],
        "duration": duration(row["seconds"]),
        "exit_code": exit_code,
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in shown.items():
        if value != "":
            table.add_row(name.replace("_", " "), Text(printable(str(value))))
    console = Console(highlight=False)
    console.print(table, soft_wrap=True)
    if row["failure"]:
        lines = "\n".join(map(printable, row["failure"].splitlines()))
        console.print(lines, markup=False, soft_wrap=True)


def duration(seconds: float | None) -> str:
    """Return a length of time for people."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _time(unix_ms: int | None) -> str:
    return "" if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds")
