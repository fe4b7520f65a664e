"""`fuseray jobs`, and `fuseray status|logs|stop JOB`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.cli.cluster.job_access import (
    JobRef,
    connect_to,
    explain_lost_job,
    find_job,
    follow_to_end,
    leave_running,
    log,
    own_register,
    show_log,
)
from orchestrator.cli.console import duration_text, json_option, printable
from orchestrator.cli.files import cluster_file
from orchestrator.config.commands import RECIPE, command_line
from orchestrator.storage.timing import now_ms

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.client import Job
    from orchestrator.cluster.jobs.follow import Progress, StopResult
    from orchestrator.cluster.jobs.history import JobRecord


@click.command()
@click.option("--cluster", type=cluster_file, help="List all jobs of this cluster, including other users'.")
@json_option
def jobs_command(cluster: Path | None, as_json: bool) -> None:
    """List the jobs that this machine submitted, newest first, with their status."""
    rows = _registered_jobs() if cluster is None else _cluster_jobs(cluster)
    if as_json:
        click.echo(json.dumps({"jobs": rows}, indent=2))
        return
    print_jobs(rows)
    for problem in dict.fromkeys(row["problem"] for row in rows if row["problem"]):
        log(problem)


def _registered_jobs() -> Sequence[dict[str, Any]]:
    from orchestrator.cluster.jobs.history import query_jobs

    now = now_ms()
    return [
        job_row(row.entry.job, row.job, row.entry, now) | {"status": row.status, "problem": row.problem}
        for row in query_jobs(own_register().entries(), connect_to)
    ]


def _cluster_jobs(cluster: Path) -> Sequence[dict[str, Any]]:
    from orchestrator.cluster.jobs.history import jobs_of

    known = {entry.job: entry for entry in own_register().entries()}
    now = now_ms()
    return [job_row(job.id, job, known.get(job.id), now) for job in jobs_of(connect_to(cluster))]


@click.command()
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Follow it until the job has ended; exit with its exit code.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines.")
@click.option("--cluster", type=cluster_file, help="Look for JOB on this cluster, not in the register.")
def logs_command(job: str, follow: bool, tail: int | None, cluster: Path | None) -> None:
    """Show JOB's output. JOB is a job's name, or the beginning of one."""
    from orchestrator.cluster.jobs.follow import last_lines

    ref = find_job(job, cluster)
    try:
        log = _log(ref)
        show_log(log if tail is None else last_lines(log, tail))
    except KeyboardInterrupt:
        leave_running(ref.id)
    if follow:
        sys.exit(follow_to_end(ref, seen=len(log)).code)


def _log(ref: JobRef) -> str:
    from orchestrator.cluster.jobs.client import JobClient

    with explain_lost_job(ref), ref.connect() as server:
        return JobClient(server).log(ref.id)


@click.command()
@click.argument("job")
@click.option("--cluster", type=cluster_file, help="Look for JOB on this cluster, not in the register.")
@json_option
def status_command(job: str, cluster: Path | None, as_json: bool) -> None:
    """Show JOB's status. JOB is a job's name, or the beginning of one."""
    row, progress = _query(find_job(job, cluster))
    if as_json:
        step = {"step": progress.step, "steps": progress.steps, "figures": progress.metrics} if progress else {}
        click.echo(json.dumps(row | step, indent=2))
        return
    print_job(row, f"step {progress.step}/{progress.steps} {progress.metrics}" if progress else "")


def _query(ref: JobRef) -> tuple[dict[str, Any], Progress | None]:
    from orchestrator.cluster.jobs.client import JobClient
    from orchestrator.cluster.jobs.follow import progress_in

    with explain_lost_job(ref), ref.connect() as server:
        jobs = JobClient(server)
        job = jobs.job(ref.id)
        progress = progress_in(jobs.log(ref.id))
    return job_row(ref.id, job, ref.entry, now_ms()), progress


@click.command()
@click.argument("job")
@click.option("--now", is_flag=True, help="Do not wait for the last checkpoint; the job writes it by itself.")
@click.option("--cluster", type=cluster_file, help="Look for JOB on this cluster, not in the register.")
@json_option
def stop_command(job: str, now: bool, cluster: Path | None, as_json: bool) -> None:
    """Stop JOB with a last checkpoint. JOB is a job's name, or the beginning of one."""
    ref = find_job(job, cluster)
    stopped = _stop(ref, now)
    if as_json:
        click.echo(
            json.dumps({"job": ref.id, "status": stopped.job.status, "asked": stopped.asked, "step": stopped.step})
        )
        return
    click.echo(_summary(ref, stopped))


def _stop(ref: JobRef, now: bool) -> StopResult:
    from orchestrator.cluster.jobs.follow import StopResult, request_stop, wait_for_end

    with explain_lost_job(ref):
        request = request_stop(ref.connect, ref.id)
        if now or not request.asked:
            return request
        log(f"asked job {ref.id} to stop; waiting for its last checkpoint")
        try:
            job, step = wait_for_end(ref.connect, ref.id, log)
        except KeyboardInterrupt:
            leave_running(ref.id)
        return StopResult(job, True, step)


def _summary(ref: JobRef, stopped: StopResult) -> str:
    job = stopped.job
    if not stopped.asked:
        return f"job {job.id} was over already: {job.status.lower()}."
    if not job.is_over:
        return f"job {job.id} is asked to stop; `{command_line('status', job.id)}` says when it is over."
    if job.status != "STOPPED":
        return f"job {job.id} ended by itself in the meantime: {job.status.lower()}, exit code {job.code}."
    if stopped.step is None:
        folder = job.run_folder or "its run folder"
        if ref.entry is not None and ref.entry.verb == "evaluate":
            return f"job {job.id} is stopped; what it has finished is kept; {_hint(ref, job.run)}."
        if ref.entry is not None and ref.entry.verb == "sweep":
            return f"job {job.id} is stopped, with a checkpoint of every trial that ran; {_hint(ref, job.run)}."
        return f"job {job.id} is stopped, and its log tells of no last checkpoint; what it saved before is in {folder}."
    hint = f"; {_hint(ref, job.run)}" if job.run else ""
    return f"job {job.id} is stopped with a checkpoint after {stopped.step} steps{hint}."


def _hint(ref: JobRef, run: str) -> str:
    other = command_line("submit", RECIPE, cluster="FILE", resume=run)
    return f"continue with `{ref.entry.resume_command if ref.entry else other}`"


COLUMNS = ("job", "status", "run", "cluster", "started", "duration")


def job_row(job_id: str, job: Job | None, entry: JobRecord | None, now_ms: int) -> dict[str, Any]:
    """Return a job's values from its cluster and from this machine's register, as plain JSON types."""
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
    """Print jobs as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, no_wrap=True)
    for row in rows:
        values = dict(row) | {"duration": duration_text(row["seconds"])}
        table.add_row(*(Text(printable(str(values[name]))) for name in COLUMNS))
    Console(highlight=False, soft_wrap=True).print(table if rows else "no jobs")


def print_job(row: Mapping[str, Any], progress: str) -> None:
    """Print one job."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    exit_code = "" if row["exit_code"] is None else row["exit_code"]
    values = {
        **{name: row[name] for name in ("job", "status", "run", "run_folder", "cluster")},
        "progress": progress,
        "started": row["started"],
        "duration": duration_text(row["seconds"]),
        "exit_code": exit_code,
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in values.items():
        if value != "":
            table.add_row(name.replace("_", " "), Text(printable(str(value))))
    console = Console(highlight=False)
    console.print(table, soft_wrap=True)
    if row["failure"]:
        lines = "\n".join(map(printable, row["failure"].splitlines()))
        console.print(lines, markup=False, soft_wrap=True)


def _time(unix_ms: int | None) -> str:
    return "" if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds")
