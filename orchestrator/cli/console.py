"""What verbs share: options that many take, and output: text made safe to print, progress, tables and findings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from io import StringIO
from textwrap import fill
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.cluster.findings import Finding
    from orchestrator.stream.shards.index_shards import ShardProgress

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
"""`--json` -> `as_json: bool`."""

endpoint_option = click.option("--endpoint", help="Address of an S3-compatible server, for s3:// URIs.")
"""`--endpoint` -> `endpoint: str | None`."""

run_storage_option = click.option(
    "--storage", default="runs", show_default=True, help="Where runs are, when RUN is a name."
)
"""`--storage` of verbs that take a RUN -> `storage: str`."""

sweep_storage_option = click.option(
    "--storage", default="runs", show_default=True, help="Where sweeps are, when NAME is a name."
)
"""`--storage` of verbs that take a sweep's NAME -> `storage: str`."""


JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""Needed to write Persian, Hindi and others."""

WIDTH = 120
"""Width of tables and findings where there is no terminal, in characters."""

UNKNOWN = "unknown"

PLAIN_EVERY_S = 10.0
"""Seconds between two progress lines where there is no terminal."""

MARKS = {"pass": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("ERROR", "red")}
INDENT = " " * 9


def printable(text: str) -> str:
    """Return a text with control characters and other unprintable characters escaped.

    Text from data sets could hold anything, terminal escape sequences included.
    """
    return "".join(
        letter if letter.isprintable() or letter in JOINERS else letter.encode("unicode_escape").decode()
        for letter in text
    )


def duration_text(seconds: float | None) -> str:
    """Return a duration as H:MM:SS; empty for None."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def rate_text(per_s: float) -> str:
    """Return a rate with at least three significant digits."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


class _Show(Protocol):
    def __call__(self, done: int, total: int | None = None, text: str = "", line: str = "") -> None: ...


@contextmanager
def _progress(
    *columns: ProgressColumn,
    total: int | None = None,
    done: int = 0,
    quiet: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[_Show]:
    """Show progress on standard error: live columns on a terminal, elsewhere `line` every `PLAIN_EVERY_S` seconds.

    The body calls what it is given with the amount done, the total if it has changed, the text of the description
    column, and the line.
    """
    console = Console(stderr=True, highlight=False, quiet=quiet)
    live = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
    task = live.add_task("", total=total, completed=done)
    printed_s = clock()

    def show(done: int, total: int | None = None, text: str = "", line: str = "") -> None:
        nonlocal printed_s
        live.update(task, completed=done, total=total, description=text)
        if line and not console.is_terminal and clock() - printed_s >= PLAIN_EVERY_S:
            printed_s = clock()
            console.print(line, markup=False, soft_wrap=True)

    with live:
        yield show


@contextmanager
def progress_bar(
    unit: str, total: int, done: int = 0, quiet: bool = False, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """Show progress towards a known total; the body calls what it is given after each item.

    Args:
        unit: what is counted, in the plural.
        total: number of items.
        done: items that were done before.
        quiet: show nothing.
        clock: seconds, for tests.
    """
    columns = (TextColumn(unit), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
    with _progress(*columns, total=total, done=done, quiet=quiet, clock=clock) as show:

        def advance() -> None:
            nonlocal done
            done += 1
            show(done, line=f"{done}/{total} {unit}")

        yield advance


@contextmanager
def counter(unit: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how many items are done, of an unknown total; the body calls what it is given with the number."""
    columns = (SpinnerColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    with _progress(*columns, quiet=quiet) as show:
        yield show


@contextmanager
def shard_progress(
    bad_label: str, quiet: bool, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[ShardProgress], None]]:
    """Show shards done and samples per second; the body calls what it is given with the state of the work.

    Args:
        bad_label: what the state counts as bad, such as "rejected".
        quiet: show nothing.
        clock: seconds, for tests.
    """
    bar, description = BarColumn(bar_width=20), TextColumn("{task.description}")
    columns = (TextColumn("shards"), MofNCompleteColumn(), bar, description, TimeRemainingColumn())
    rate = _SampleRate(clock)
    with _progress(*columns, quiet=quiet, clock=clock) as show:

        def update(standing: ShardProgress) -> None:
            bad = f", {standing.bad} {bad_label}" if standing.bad else ""
            text = f"{standing.samples} samples, {rate.per_s(standing.samples):.0f}/s{bad}"
            show(standing.shards, standing.of, text, f"{standing.shards}/{standing.of} shards, {text}")

        yield update


class EvaluationProgress:
    """Shows the stages of an evaluation one after the other; as a context manager, it ends the line.

    Args:
        quiet: show nothing.
        clock: seconds, for tests.
    """

    def __init__(self, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet = quiet
        self._clock = clock
        self._stage = ExitStack()
        self._show: _Show | None = None
        self._unit, self._total, self._done = "", 0, 0
        self._rate = _SampleRate(clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stage.close()

    def begin(self, unit: str, total: int, done: int) -> None:
        """Begin a stage."""
        self._stage.close()
        bar, description = BarColumn(bar_width=20), TextColumn("{task.description}")
        columns = (TextColumn(unit), MofNCompleteColumn(), bar, description, TimeRemainingColumn())
        self._show = self._stage.enter_context(
            _progress(*columns, total=total, done=done, quiet=self._quiet, clock=self._clock)
        )
        self._unit, self._total, self._done, self._rate = unit, total, done, _SampleRate(self._clock)
        self._rate.per_s(done)

    def advance(self, count: int) -> None:
        """Show that so many more are done."""
        self._done += count
        rate = self._rate.per_s(self._done)
        left = f", {duration_text((self._total - self._done) / rate)} left" if rate else ""
        text = f"{rate_text(rate)} {self._unit}/s"
        if self._show is not None:
            self._show(self._done, self._total, text, f"{self._done}/{self._total} {self._unit}, {text}{left}")


class _SampleRate:
    """Samples per second since the first call, which may count samples of an earlier process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._first: tuple[float, int] | None = None

    def per_s(self, samples: int) -> float:
        now = self._clock()
        self._first = self._first or (now, samples)
        start_s, start = self._first
        return (samples - start) / (now - start_s) if now > start_s else 0.0


def print_table(table: Table) -> None:
    """Print a table with a blank line after it; its width is the terminal's, or `WIDTH` elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        console.print()
        return
    with StringIO() as text:
        Console(highlight=False, width=WIDTH, file=text).print(table)
        click.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n")


def show_findings(findings: Sequence[Finding], width: int | None = None) -> None:
    """Print findings: a table on a terminal, lines elsewhere.

    Args:
        findings: the outcomes of checks.
        width: characters after which a line is wrapped; None for lines of any length.
    """
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(_findings_table(findings))
    else:
        click.echo("\n".join(_finding_line(finding, width) for finding in findings))


def no_errors(findings: Sequence[Finding]) -> bool:
    """Return whether no finding is an error."""
    return all(finding.level != "error" for finding in findings)


def _findings_table(findings: Sequence[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "check", "found", "fix"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.level]
        table.add_row(Text(mark, style), Text(finding.name), Text(finding.found), Text(finding.fix))
    return table


def _finding_line(finding: Finding, width: int | None) -> str:
    result = f"{MARKS[finding.level][0]:<8} {finding.name}: {finding.found}"
    lines = [result, f"{INDENT}fix: {finding.fix}"] if finding.fix else [result]
    if width is not None:
        lines = [fill(line, width, subsequent_indent=INDENT, break_long_words=False) for line in lines]
    return "\n".join(lines)
