"""Text from data sets, made safe to print: it could hold anything, the terminal's own commands included."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.cluster.findings import Finding
    from orchestrator.stream.shards.index_shards import ShardProgress


JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""Needed to write Persian, Hindi and others."""


def printable(text: str) -> str:
    """Return a text with control characters and other letters that cannot be printed written as escapes."""
    return "".join(
        letter if letter.isprintable() or letter in JOINERS else letter.encode("unicode_escape").decode()
        for letter in text
    )


# Progress of work whose length is known: a bar on a terminal, a line now and then elsewhere.


PLAIN_EVERY_S = 10.0


@contextmanager
def progress_bar(
    what: str, total: int, done: int = 0, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Show how much is done on standard error; the body calls what it is given after each piece.

    Args:
        what: is counted.
        total: pieces in all.
        done: pieces that were done before.
        quiet: show nothing.
        clock: seconds, for tests.
    """
    console = Console(stderr=True, highlight=False, quiet=quiet)
    columns = (TextColumn(what), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    live = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
    task = live.add_task(what, total=total, completed=done)
    spoken = clock()

    def advance() -> None:
        nonlocal done, spoken
        done += 1
        live.advance(task)
        if not console.is_terminal and clock() - spoken >= PLAIN_EVERY_S:
            spoken = clock()
            console.print(f"{done}/{total} {what}")

    with live:
        yield advance


# A counter on the terminal for work whose length is not known.


@contextmanager
def counter(what: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how many are done; the body calls what it is given with the number."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn(what), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done: progress.update(task, completed=done)


# How far work on shards is, on the terminal.


@contextmanager
def shard_progress(
    what_is_bad: str, quiet: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[ShardProgress], None]]:
    """Show shards done and samples per second: one live line on a terminal, a plain line now and then elsewhere.

    Args:
        what_is_bad: what the standing counts as bad.
        quiet: show nothing.
        clock: seconds, for tests.
    """
    console = Console(stderr=True, highlight=False, quiet=quiet)
    columns = (TextColumn("shards"), MofNCompleteColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"))
    live = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True)
    task = live.add_task("", total=None)
    pace = _Pace(clock)
    spoken = clock()

    def show(standing: ShardProgress) -> None:
        nonlocal spoken
        bad = f", {standing.bad} {what_is_bad}" if standing.bad else ""
        text = f"{standing.samples} samples, {pace.samples_per_s(standing.samples):.0f}/s{bad}"
        live.update(task, completed=standing.shards, total=standing.of, description=text)
        if not console.is_terminal and clock() - spoken >= PLAIN_EVERY_S:
            spoken = clock()
            console.print(f"{standing.shards}/{standing.of} shards, {text}", markup=False, soft_wrap=True)

    with live:
        yield show


class _Pace:
    """Samples per second since the first standing, which may hold what an earlier process did."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def samples_per_s(self, samples: int) -> float:
        now = self._clock()
        self._first = self._first or (now, samples)
        start_s, start = self._first
        return (samples - start) / (now - start_s) if now > start_s else 0.0


# Showing what checks have found.


MARKS = {"pass": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("ERROR", "red")}

INDENT = " " * 9


def show_findings(findings: Sequence[Finding], width: int | None = None) -> None:
    """Print findings: a table on a terminal, lines elsewhere.

    Args:
        findings: what was found.
        width: characters after which a line goes on below; None for lines of any length.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(_table(findings))
    else:
        click.echo("\n".join(_line(finding, width) for finding in findings))


def sound(findings: Sequence[Finding]) -> bool:
    """Return whether nothing has to be mended."""
    return all(finding.level != "error" for finding in findings)


def _table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "check", "found", "fix"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.level]
        table.add_row(Text(mark, style), Text(finding.name), Text(finding.found), Text(finding.fix))
    return table


def _line(finding: Finding, width: int | None) -> str:
    found = f"{MARKS[finding.level][0]:<8} {finding.name}: {finding.found}"
    lines = [found, f"{INDENT}fix: {finding.fix}"] if finding.fix else [found]
    if width is not None:
        lines = [fill(line, width, subsequent_indent=INDENT, break_long_words=False) for line in lines]
    return "\n".join(lines)
