"""`fuseray stop JOB`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.cluster_argument import cluster_file
from orchestrator.cli.finding_jobs import FoundJob, explaining_loss, find_job
from orchestrator.cli.following_jobs import leave, say

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.follow import Stopped


@click.command()
@click.argument("job")
@click.option("--now", is_flag=True, help="Do not wait for the last checkpoint; the job writes it by itself.")
@click.option("--cluster", type=cluster_file, help="Look for JOB on this cluster, not in the register.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def command(job: str, now: bool, cluster: Path | None, as_json: bool) -> None:
    """Stop JOB with a last checkpoint: a job's name, or the beginning of one."""
    found = find_job(job, cluster)
    stopped = _stop(found, now)
    if as_json:
        click.echo(
            json.dumps({"job": found.id, "status": stopped.job.status, "asked": stopped.asked, "step": stopped.step})
        )
        return
    click.echo(_summary(found, stopped))


def _stop(found: FoundJob, now: bool) -> Stopped:
    from orchestrator.cluster.jobs.follow import Stopped, ask_to_stop, wait_for_end

    with explaining_loss(found):
        asked = ask_to_stop(found.reach, found.id)
        if now or not asked.asked:
            return asked
        say(f"asked job {found.id} to stop; waiting for its last checkpoint")
        try:
            job, step = wait_for_end(found.reach, found.id, say)
        except KeyboardInterrupt:
            leave(found.id)
        return Stopped(job, True, step)


def _summary(found: FoundJob, stopped: Stopped) -> str:
    job = stopped.job
    if not stopped.asked:
        return f"job {job.id} was over already: {job.status.lower()}."
    if not job.is_over:
        return f"job {job.id} is asked to stop; `fuseray status {job.id}` says when it is over."
    if job.status != "STOPPED":
        return f"job {job.id} ended by itself in the meantime: {job.status.lower()}, exit code {job.code}."
    if stopped.step is None:
        folder = job.run_folder or "its run folder"
        if found.entry is not None and found.entry.verb == "sweep":
            return f"job {job.id} is stopped, with a checkpoint of every trial that ran; {_hint(found, job.run)}."
        return f"job {job.id} is stopped, and its log tells of no last checkpoint; what it saved before is in {folder}."
    hint = f"; {_hint(found, job.run)}" if job.run else ""
    return f"job {job.id} is stopped with a checkpoint after {stopped.step} steps{hint}."


def _hint(found: FoundJob, run: str) -> str:
    other = f"fuseray submit RECIPE --cluster FILE --resume {run}"
    return f"continue with `{found.entry.go_on if found.entry else other}`"
