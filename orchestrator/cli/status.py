"""`fuseray status JOB`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.cluster_argument import cluster_file
from orchestrator.cli.finding_jobs import FoundJob, explaining_loss, find_job
from orchestrator.cli.job_table import job_row, print_job

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.follow import Progress


@click.command()
@click.argument("job")
@click.option("--cluster", type=cluster_file, help="Look for JOB on this cluster, not in the register.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(job: str, cluster: Path | None, as_json: bool) -> None:
    """Say how JOB is doing: a job's name, or the beginning of one."""
    row, progress = _ask(find_job(job, cluster))
    if as_json:
        step = {"step": progress.step, "steps": progress.steps, "figures": progress.figures} if progress else {}
        click.echo(json.dumps(row | step, indent=2))
        return
    print_job(row, f"step {progress.step}/{progress.steps} {progress.figures}" if progress else "")


def _ask(found: FoundJob) -> tuple[dict[str, Any], Progress | None]:
    from orchestrator.cluster.jobs.client import Jobs
    from orchestrator.cluster.jobs.follow import progress_in

    with explaining_loss(found), found.reach() as server:
        jobs = Jobs(server)
        job = jobs.job(found.id)
        progress = progress_in(jobs.log(found.id))
    return job_row(found.id, job, found.entry, int(time.time() * 1000)), progress
