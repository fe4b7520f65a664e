"""Looks up clusters and jobs by what a user typed, and follows a job's log on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from orchestrator.cli.console import printable
from orchestrator.config.commands import command_line
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.client import Job
    from orchestrator.cluster.jobs.follow import Connect
    from orchestrator.cluster.jobs.history import JobRecord, JobRegister
    from orchestrator.cluster.launch.launcher import JobServer, Launcher
    from orchestrator.config.cluster import Cluster


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job and how to reach it.

    Args:
        id: its id on the cluster.
        connect: connects to its cluster's job server.
        entry: its entry in this user's register; None when this machine did not submit it.
    """

    id: str
    connect: Connect
    entry: JobRecord | None


def open_cluster(file: Path) -> tuple[Cluster, Launcher]:
    """Read a cluster's file; return the cluster and its launcher.

    Raises:
        ConfigError: the file is wrong.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.launch.launchers import launcher_of

    cluster = read_cluster(file)
    return cluster, launcher_of(cluster)


def connect_to(file: str | Path) -> Connect:
    """Return a function that connects to a cluster's job server; it reads the file when it is called."""

    def connect() -> AbstractContextManager[JobServer]:
        if not Path(file).is_file():
            raise ConfigError(f"{file}: is not there any more; name the cluster's file with --cluster.")
        return open_cluster(Path(file))[1].connect()

    return connect


def own_register() -> JobRegister:
    """Return this user's register of submitted jobs."""
    from orchestrator.cluster.jobs.history import JobRegister, register_folder

    return JobRegister(register_folder())


def find_job(prefix: str, cluster: Path | None) -> JobRef:
    """Return the job with an id, or with an id that starts so.

    Args:
        prefix: the id, or the beginning of it.
        cluster: file of the cluster to search; None searches the register.

    Raises:
        ConfigError: no job or several jobs match.
        ClusterError: the cluster cannot be reached.
    """
    from orchestrator.cluster.jobs.history import jobs_of, match_job

    entries = {entry.job: entry for entry in own_register().entries()}
    if cluster is not None:
        known = [job.id for job in jobs_of(connect_to(cluster))]
        job_id = match_job(prefix, known, f"known to the cluster of {cluster}")
        return JobRef(job_id, connect_to(cluster), entries.get(job_id))
    job_id = match_job(prefix, list(entries), "among the jobs that this machine submitted")
    return JobRef(job_id, connect_to(entries[job_id].cluster_file), entries[job_id])


@contextmanager
def explain_lost_job(ref: JobRef) -> Iterator[None]:
    """Turn the cluster's error about an unknown job into one that says what to do, if this machine submitted it."""
    from orchestrator.cluster.jobs.client import UnknownJobError
    from orchestrator.cluster.jobs.history import lost_job_error

    try:
        yield
    except UnknownJobError as error:
        if ref.entry is None:
            raise
        raise lost_job_error(ref.entry) from error


OUTPUT_CLOSED = 141
"""Exit code when standard output was closed (128 + SIGPIPE), as shells use it."""

DETACHED = 130
"""Exit code after Ctrl-C, as shells use it."""


def follow_to_end(ref: JobRef, seen: int = 0, to_stderr: bool = False) -> Job:
    """Print a job's log until the job has ended.

    Args:
        ref: the job.
        seen: characters at the start of the log to skip.
        to_stderr: print it on standard error, when standard output is for scripts.
    """
    from orchestrator.cluster.jobs.follow import LogReader, follow

    reader = LogReader(lambda text: show_log(text, to_stderr), seen)
    try:
        with explain_lost_job(ref):
            return follow(ref.connect, ref.id, reader, log)
    except KeyboardInterrupt:
        leave_running(ref.id)


def show_log(text: str, to_stderr: bool = False) -> None:
    """Print a piece of a log, with unprintable characters escaped."""
    lines = (printable(line.expandtabs()) for line in text.split("\n"))
    try:
        click.echo("\n".join(lines), nl=False, err=to_stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)


def log(line: str) -> None:
    """Print a message on standard error."""
    click.echo(line, err=True)


def leave_running(job: str) -> NoReturn:
    """Exit, with the job still running."""
    follow, stop = command_line("logs", job, "-f"), command_line("stop", job)
    log(f"\nThe job continues. Follow it again with `{follow}`, stop it with `{stop}`.")
    sys.exit(DETACHED)
