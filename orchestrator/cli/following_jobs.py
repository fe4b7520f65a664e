"""Following a job on the terminal until it is over, or until whoever watches has seen enough."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from orchestrator.cli.finding_jobs import FoundJob, explaining_loss
from orchestrator.cli.printable import printable

if TYPE_CHECKING:
    from orchestrator.cluster.jobs.client import Job

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
            return follow(found.reach, found.id, reader, say)
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


def say(line: str) -> None:
    """Tell the user something beside a log."""
    click.echo(line, err=True)


def leave(job: str) -> NoReturn:
    """Leave a job to itself."""
    say(f"\nThe job goes on. Follow it again with `fuseray logs {job} -f`, stop it with `fuseray stop {job}`.")
    sys.exit(LEFT)
