"""`fuseray sweep status NAME`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import duration_text, printable
from orchestrator.cli.options import endpoint_option, json_option, sweep_storage_option
from orchestrator.config.errors import FuserayError
from orchestrator.sweep.folder import SweepFile, SweepFolder, TrialRecord
from orchestrator.sweep.results import TrialSpending, best, outcomes, signs
from orchestrator.sweep.validate import described, short_keys, value_text
from orchestrator.track.cost import Costs, RunCost, read_starts

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.config.sweep import Sweep
    from orchestrator.sweep.folder import Status


EVERY_S = 5.0
"""Seconds between two looks at a sweep that goes on."""


@click.command()
@click.argument("name", metavar="NAME")
@sweep_storage_option
@endpoint_option
@json_option
@click.option("--watch", "watches", is_flag=True, help="Go on showing it until the sweep has ended; Ctrl-C leaves.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool, watches: bool) -> None:
    """Show how the trials of the sweep NAME are doing: the best, those that run, and the others."""
    from rich.console import Console

    from orchestrator.sweep.folder import find_sweep

    reader = SweepReader(find_sweep(name, storage, endpoint))
    if as_json:
        click.echo(json.dumps(reader.read().to_json(), indent=2))
        return
    console = Console(highlight=False)
    if watches and console.is_terminal:
        watch(reader.read, console, lambda: time.sleep(EVERY_S))
        return
    console.print(sweep_table(reader.read(), console.width))


def watch(read: Callable[[], SweepView], console: Console, wait: Callable[[], object]) -> None:
    """Show a sweep until it has ended, or until Ctrl-C.

    Args:
        read: returns the sweep as it stands; when it fails later on, what was read last stays.
        console: a terminal.
        wait: waits until it is time for the next look.
    """
    from rich.live import Live

    view = read()
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(sweep_table(view, console.width, console.height), refresh=True)
                if view.is_over:
                    break
                wait()
                view = _again(read, view)
    except KeyboardInterrupt:
        return


def _again(read: Callable[[], SweepView], before: SweepView) -> SweepView:
    try:
        return read()
    except FuserayError:
        return before


STYLES = {"RUNNING": "cyan", "PAUSED": "yellow", "FINISHED": "green", "STOPPED": "dim", "FAILED": "red"}
ORDER: tuple[Status, ...] = ("RUNNING", "PAUSED", "FINISHED", "STOPPED", "FAILED")
SHOWN = 3
"""Lines about the best configurations, and about failures, that a table of bounded height leaves room for."""

GAP = 2
LINE = "\n"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    Args:
        name: its heading.
        cells: one for each trial shown.
        dropped: when it goes as the terminal is too narrow: the larger ones first; 0 for never.
        right: whether it is set to the right.
    """

    name: str
    cells: Sequence[Text]
    dropped: int = 0
    right: bool = False

    @property
    def width(self) -> int:
        """Characters that it takes."""
        return max(len(self.name), *(cell.cell_len for cell in self.cells), 0)


def sweep_table(view: SweepView, width: int, height: int | None = None) -> Group:
    """Return a sweep as it stands.

    Args:
        view: the sweep.
        width: characters of a line; columns that do not fit are left out, the least important first.
        height: lines that there are; the best and the running trials are shown then, and the others counted.
    """
    most = None if height is None else SHOWN
    head, reasons, ordered = [*_headline(view), *_best(view)[:most]], _reasons(view)[:most], _in_order(view)
    room = None if height is None else max(1, height - len(head) - len(reasons) - 4)
    shown, rest = ordered[:room], ordered[room:] if room else []
    table: list[Text | Table] = [Text(""), _table(_fitting(list(_columns(view, shown)), width))] if shown else []
    more = [Text(f"and {len(rest)} more: {_counts(rest)}", "dim")] if rest else []
    lines = [*head, *more, *reasons]
    if height is not None:
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*head, *table, *more, *reasons)


def _headline(view: SweepView) -> Iterator[Text]:
    file, done = view.file, sum(one.is_over for one in view.trials)
    why = f" ({file.reason})" if file.reason else ""
    counts = f", {_counts(view.trials)}" if view.trials else ""
    yield _line(f"sweep {file.name}: {file.status}{why}; {done} of {file.trials} trials are over{counts}", "bold")
    unpriced = view.total.unpriced_node_hours
    more = f" and {unpriced:.2f} node-hours without a known price" if unpriced else ""
    yield _line(f"elapsed {duration_text(view.seconds)}; cost ${view.total.usd:,.2f}{more}{_budget(view)}")


def _budget(view: SweepView) -> str:
    budget = view.sweep.budget
    limits = {"{:g} h": budget.hours, "{:g} GPU-hours": budget.gpu_hours, "${:g}": budget.usd}
    said = ", ".join(form.format(limit) for form, limit in limits.items() if limit is not None)
    return f"; budget {said}" if said else ""


def _best(view: SweepView) -> list[Text]:
    found = outcomes(view.trials)
    return [_best_line(view, number, found[number]) for number in sorted(view.best)]


def _best_line(view: SweepView, number: int, values: Sequence[float]) -> Text:
    first = next(one for one in view.trials if one.number == number)
    names = [one.metric for one in view.sweep.objectives]
    said = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values, strict=True))
    return _line(f"best so far: {number} with {said} ({described(first.assignment)})", "green")


def _reasons(view: SweepView) -> list[Text]:
    failed = [one for one in view.trials if one.status == "FAILED"]
    return [_line(f"trial {_name(view, one)} failed: {one.reason.partition(LINE)[0]}", "red") for one in failed]


def _counts(trials: Sequence[TrialRecord]) -> str:
    counts = Counter(one.status for one in trials)
    return ", ".join(f"{counts[status]} {status.lower()}" for status in ORDER if counts[status])


def _in_order(view: SweepView) -> list[TrialRecord]:
    """Return the best trials, those that run, and the others: each kind by what it has come to."""
    best, modes = view.best, view.modes

    def place(one: TrialRecord) -> tuple[bool, int, tuple[float, ...], int, int]:
        good = tuple(-value for value in signs(one.points[-1].values, modes)) if one.points else (float("inf"),)
        return (one.number not in best, ORDER.index(one.status), good, one.number, one.replica)

    return sorted(view.trials, key=place)


def _columns(view: SweepView, shown: Sequence[TrialRecord]) -> Iterator[Column]:
    best, keys = view.best, list(view.sweep.space)
    yield Column("", [Text("best" if one.number in best else "", "green") for one in shown])
    yield Column("trial", [Text(str(one.number)) for one in shown], right=True)
    if view.sweep.replicas > 1:
        yield Column("replica", [Text(str(one.replica)) for one in shown], 2, right=True)
    yield Column("status", [Text(one.status.lower(), STYLES[one.status]) for one in shown])
    for key, short in short_keys(keys).items():
        yield Column(short, [_value(one, key) for one in shown], 1, right=True)
    yield Column("samples", [_samples(one) for one in shown], 4, right=True)
    yield Column("of all", [_share(one, view.file.samples) for one in shown], 3, right=True)
    for place, name in enumerate(short_keys([one.metric for one in view.sweep.objectives], "/").values()):
        yield Column(name, [_objective(one, place) for one in shown], right=True)
    seconds = [between(one.started, one.ended, view.now) for one in shown]
    yield Column("elapsed", [Text(duration_text(one)) for one in seconds], 5, right=True)
    yield Column("cost", [_usd(view, one) for one in shown], 6, right=True)


def _value(one: TrialRecord, key: str) -> Text:
    return Text(printable(value_text(one.assignment[key])) if key in one.assignment else "")


def _samples(one: TrialRecord) -> Text:
    return Text(f"{one.points[-1].samples:,}" if one.points else "")


def _share(one: TrialRecord, samples: int) -> Text:
    return Text(f"{one.points[-1].samples / samples:.0%}" if one.points and samples else "")


def _objective(one: TrialRecord, place: int) -> Text:
    return Text(f"{one.points[-1].values[place]:.4g}" if one.points else "")


def _usd(view: SweepView, one: TrialRecord) -> Text:
    spent = view.spent.get(one.name)
    if spent is None or (spent.unpriced_node_hours and not spent.usd):
        return Text("")
    return Text(f"${spent.usd:,.2f}")


def _fitting(columns: list[Column], width: int) -> list[Column]:
    """Return the columns that fit; those of searched keys go one by one, the last first."""
    while sum(one.width + GAP for one in columns) - GAP > width and (most := max(one.dropped for one in columns)):
        columns.remove([one for one in columns if one.dropped == most][-1])
    return columns


def _table(columns: Sequence[Column]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True)
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.name, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _name(view: SweepView, one: TrialRecord) -> str:
    return f"{one.number} (replica {one.replica})" if view.sweep.replicas > 1 else str(one.number)


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


@dataclass(frozen=True, slots=True)
class SweepView:
    """A sweep at one moment.

    Args:
        file: what the sweep remembers.
        sweep: its sections.
        trials: all that were started, by number and replica.
        spent: what trials have used, by name; without those of which nobody can tell.
        total: what the machines of the sweep have come to.
        now: the moment, with its time zone.
    """

    file: SweepFile
    sweep: Sweep
    trials: tuple[TrialRecord, ...]
    spent: Mapping[str, RunCost]
    total: RunCost
    now: datetime

    @property
    def modes(self) -> tuple[str, ...]:
        """Whether small or large values are good, for each objective."""
        return tuple(one.mode for one in self.sweep.objectives)

    @property
    def best(self) -> frozenset[int]:
        """Numbers of the best configurations so far."""
        return best(outcomes(self.trials), self.modes)

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on."""
        return self.file.status != "RUNNING"

    @property
    def seconds(self) -> float:
        """How long all starts of the sweep have taken."""
        return self.total.seconds or between(self.file.created, self.file.ended, self.now) or 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        trials = [asdict(one) | {"name": one.name, "usd": self._usd(one)} for one in self.trials]
        return {
            **asdict(self.file),
            "trials_in_all": self.file.trials,
            "objectives": [one.model_dump() for one in self.sweep.objectives],
            "budget": self.sweep.budget.model_dump(),
            "elapsed_s": round(self.seconds, 1),
            "usd": round(self.total.usd, 4),
            "best": sorted(self.best),
            "trials": trials,
        }

    def _usd(self, trial: TrialRecord) -> float | None:
        return round(self.spent[trial.name].usd, 4) if trial.name in self.spent else None


def between(begin: str, end: str, now: datetime) -> float | None:
    """Return the seconds between two ISO 8601 times, until now when the second one is empty, None without a first."""
    if not begin:
        return None
    until = datetime.fromisoformat(end) if end else now
    return max(0.0, (until - datetime.fromisoformat(begin)).total_seconds())


class SweepReader:
    """Reads a sweep again and again; what can no longer change is read once.

    Args:
        folder: the sweep's folder.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._spending = TrialSpending(folder)
        self._section: Sweep | None = None

    def read(self, now: datetime | None = None) -> SweepView:
        """Return the sweep as it stands.

        Args:
            now: the time; None for that of the clock.

        Raises:
            SweepError: there is no sweep, or one of its files is damaged.
            CostRecordError: the record of its machines is damaged.
            StorageError: storage cannot be reached.
        """
        from orchestrator.sweep.folder import stored_section

        self._section = self._section or stored_section(self._folder)
        file, trials = self._folder.read(), tuple(self._folder.trials())
        total = Costs(read_starts(self._folder.costs)).spent()
        return SweepView(file, self._section, trials, self._spending.read(trials), total, now or datetime.now(UTC))
