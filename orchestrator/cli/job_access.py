"""Finding the cluster and the job that a user means."""

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
from orchestrator.config.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.client import Job
    from orchestrator.cluster.jobs.follow import Reach
    from orchestrator.cluster.jobs.history import Entry, Register
    from orchestrator.cluster.launch.launcher import JobServer, Launcher
    from orchestrator.config.cluster import Cluster


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job that a user means.

    Args:
        id: its name on the cluster.
        reach: opens the way to its cluster.
        entry: what this machine remembers of it, if this machine submitted it.
    """

    id: str
    reach: Reach
    entry: Entry | None


def open_cluster(file: Path) -> tuple[Cluster, Launcher]:
    """Read a cluster's file and return what can be done with the cluster.

    Raises:
        ConfigError: the file is wrong.
    """
    from orchestrator.cluster.files.read import read_cluster
    from orchestrator.cluster.launch.launchers import launcher_of

    cluster = read_cluster(file)
    return cluster, launcher_of(cluster)


def reach_of(file: str | Path) -> Reach:
    """Return what opens the way to the job server of a cluster; the file is read when it is used."""

    def reach() -> AbstractContextManager[JobServer]:
        if not Path(file).is_file():
            raise ConfigError(f"{file}: is not there any more; name the cluster's file with --cluster.")
        return open_cluster(Path(file))[1].reach()

    return reach


def own_register() -> Register:
    """Return this user's register."""
    from orchestrator.cluster.jobs.history import Register, register_folder

    return Register(register_folder())


def find_job(prefix: str, cluster: Path | None) -> FoundJob:
    """Return the job that a user means by its name or the beginning of it.

    Args:
        prefix: what the user wrote.
        cluster: file of the cluster to look in; None looks into the register.

    Raises:
        ConfigError: none is meant, or several could be.
        ClusterError: the cluster cannot be reached.
    """
    from orchestrator.cluster.jobs.history import jobs_of, the_one

    entries = {entry.job: entry for entry in own_register().entries()}
    if cluster is not None:
        found = the_one(prefix, [job.id for job in jobs_of(reach_of(cluster))], f"known to the cluster of {cluster}")
        return FoundJob(found, reach_of(cluster), entries.get(found))
    found = the_one(prefix, list(entries), "among the jobs that this machine submitted")
    return FoundJob(found, reach_of(entries[found].cluster_file), entries[found])


@contextmanager
def explaining_loss(found: FoundJob) -> Iterator[None]:
    """Say what to do when the cluster turns out not to know a job that this machine submitted."""
    from orchestrator.cluster.jobs.client import UnknownJobError
    from orchestrator.cluster.jobs.history import lost_job

    try:
        yield
    except UnknownJobError as error:
        if found.entry is None:
            raise
        raise lost_job(found.entry) from error


# Following a job on the terminal until it is over, or until whoever watches has seen enough.


NOBODY_LISTENS = 141
"""Exit code when whoever read the output is gone, as shells use it."""

LEFT = 130
"""Exit code after Ctrl-C, as shells use it."""


def follow_to_end(found: FoundJob, seen: int = 0, to_stderr: bool = False) -> Job:
    """Show a job's log until the job is over.

    Args:
        found: the job.
        seen: characters of the log that are not shown.
        to_stderr: show it on standard error, where standard output is for scripts.
    """
    from orchestrator.cluster.jobs.follow import Reader, follow

    reader = Reader(lambda text: show_log(text, to_stderr), seen)
    try:
        with explaining_loss(found):
            return follow(found.reach, found.id, reader, log)
    except KeyboardInterrupt:
        leave(found.id)


def show_log(text: str, to_stderr: bool = False) -> None:
    """Print a piece of a log, which could hold anything."""
    lines = (printable(line.expandtabs()) for line in text.split("\n"))
    try:
        click.echo("\n".join(lines), nl=False, err=to_stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(NOBODY_LISTENS)


def log(line: str) -> None:
    """Tell the user something beside a log."""
    click.echo(line, err=True)


def leave(job: str) -> NoReturn:
    """Leave a job to itself."""
    log(f"\nThe job goes on. Follow it again with `fuseray logs {job} -f`, stop it with `fuseray stop {job}`.")
    sys.exit(LEFT)
