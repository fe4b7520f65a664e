"""`fuseray jobs`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.cluster_argument import cluster_file
from orchestrator.cli.finding_jobs import own_register, reach_of
from orchestrator.cli.following_jobs import say
from orchestrator.cli.job_table import job_row, print_jobs


@click.command()
@click.option("--cluster", type=cluster_file, help="Ask this cluster for all its jobs, also those of others.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(cluster: Path | None, as_json: bool) -> None:
    """List the jobs that this machine submitted, newest first, and how they are doing."""
    rows = _remembered() if cluster is None else _of_cluster(cluster)
    if as_json:
        click.echo(json.dumps({"jobs": rows}, indent=2))
        return
    print_jobs(rows)
    for problem in dict.fromkeys(row["problem"] for row in rows if row["problem"]):
        say(problem)


def _remembered() -> Sequence[dict[str, Any]]:
    from orchestrator.cluster.jobs.history import survey

    now_ms = int(time.time() * 1000)
    return [
        job_row(row.entry.job, row.job, row.entry, now_ms) | {"status": row.status, "problem": row.problem}
        for row in survey(own_register().entries(), reach_of)
    ]


def _of_cluster(cluster: Path) -> Sequence[dict[str, Any]]:
    from orchestrator.cluster.jobs.history import jobs_of

    known = {entry.job: entry for entry in own_register().entries()}
    now_ms = int(time.time() * 1000)
    return [job_row(job.id, job, known.get(job.id), now_ms) for job in jobs_of(reach_of(cluster))]
