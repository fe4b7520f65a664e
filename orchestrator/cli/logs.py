"""`fuseray logs JOB`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli.cluster_argument import cluster_file
from orchestrator.cli.finding_jobs import FoundJob, explaining_loss, find_job
from orchestrator.cli.following_jobs import follow_to_end, leave, show_log


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job is over; exit with its exit code.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines.")
@click.option("--cluster", type=cluster_file, help="Look for JOB on this cluster, not in the register.")
def command(job: str, follow: bool, tail: int | None, cluster: Path | None) -> None:
    """Show what JOB wrote: a job's name, or the beginning of one."""
    from orchestrator.cluster.jobs.follow import last_lines

    found = find_job(job, cluster)
    try:
        log = _log(found)
        show_log(log if tail is None else last_lines(log, tail))
    except KeyboardInterrupt:
        leave(found.id)
    if follow:
        sys.exit(follow_to_end(found, seen=len(log)).code)


def _log(found: FoundJob) -> str:
    from orchestrator.cluster.jobs.client import Jobs

    with explaining_loss(found), found.reach() as server:
        return Jobs(server).log(found.id)
