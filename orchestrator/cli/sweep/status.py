"""`fuseray sweep status NAME`: a headline and a table of trials that fits the terminal."""

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

from orchestrator.cli.console import duration_text, endpoint_option, json_option, printable, sweep_storage_option
from orchestrator.config.errors import FuserayError
from orchestrator.sweep.folder import SweepFile, SweepFolder, TrialRecord
from orchestrator.sweep.results import TrialSpending, best, outcomes, signs
from orchestrator.sweep.validate import assignment_text, short_keys, value_text
from orchestrator.track.cost import Costs, RunCost, read_starts

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.config.sweep import Sweep
    from orchestrator.sweep.folder import TrialStatus


REFRESH_S = 5.0
"""Seconds between two refreshes of a running sweep."""


@click.command()
@click.argument("name", metavar="NAME")
@sweep_storage_option
@endpoint_option
@json_option
@click.option("--watch", "watches", is_flag=True, help="Refresh until the sweep has ended; Ctrl-C exits.")
def command(name: str, storage: str, endpoint: str | None, as_json: bool, watches: bool) -> None:
    """Show the trials of the sweep NAME: the best, the running ones, and the others."""
    from rich.console import Console

    from orchestrator.sweep.folder import find_sweep

    reader = SweepReader(find_sweep(name, storage, endpoint))
    if as_json:
        click.echo(json.dumps(reader.read().to_json(), indent=2))
        return
    console = Console(highlight=False)
    if watches and console.is_terminal:
        watch(reader.read, console, lambda: time.sleep(REFRESH_S))
        return
    console.print(sweep_table(reader.read(), console.width))


def watch(read: Callable[[], SweepView], console: Console, wait: Callable[[], object]) -> None:
    """Show a sweep until it has ended, or until Ctrl-C.

    Args:
        read: returns the sweep's state; when it fails later on, the last state is kept.
        console: a terminal.
        wait: waits for the next refresh.
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
                view = _read_or_keep(read, view)
    except KeyboardInterrupt:
        return


def _read_or_keep(read: Callable[[], SweepView], before: SweepView) -> SweepView:
    try:
        return read()
    except FuserayError:
        return before


STYLES = {"RUNNING": "cyan", "PAUSED": "yellow", "FINISHED": "green", "STOPPED": "dim", "FAILED": "red"}
ORDER: tuple[TrialStatus, ...] = ("RUNNING", "PAUSED", "FINISHED", "STOPPED", "FAILED")
SHOWN = 3
"""Lines about the best configurations, and about failures, that a table of bounded height leaves room for."""

GAP = 2
NEWLINE = "\n"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    Args:
        name: its heading.
        cells: one for each trial shown.
        dropped: order of removal when the terminal is too narrow, larger numbers first; 0 for never.
        right: whether it is right-justified.
    """

    name: str
    cells: Sequence[Text]
    dropped: int = 0
    right: bool = False

    @property
    def width(self) -> int:
        """Its width in characters."""
        return max(len(self.name), *(cell.cell_len for cell in self.cells), 0)


def sweep_table(view: SweepView, width: int, height: int | None = None) -> Group:
    """Render a sweep's state.

    Args:
        view: the sweep.
        width: characters of a line; columns that do not fit are left out, the least important first.
        height: number of lines; then the best and the running trials are shown, and the others counted.
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
    file, done = view.file, sum(trial.is_over for trial in view.trials)
    why = f" ({file.reason})" if file.reason else ""
    counts = f", {_counts(view.trials)}" if view.trials else ""
    yield _line(f"sweep {file.name}: {file.status}{why}; {done} of {file.trials} trials are over{counts}", "bold")
    unpriced = view.total.unpriced_node_hours
    more = f" and {unpriced:.2f} node-hours without a known price" if unpriced else ""
    yield _line(f"elapsed {duration_text(view.seconds)}; cost ${view.total.usd:,.2f}{more}{_budget(view)}")


def _budget(view: SweepView) -> str:
    budget = view.sweep.budget
    limits = {"{:g} h": budget.hours, "{:g} GPU-hours": budget.gpu_hours, "${:g}": budget.usd}
    text = ", ".join(form.format(limit) for form, limit in limits.items() if limit is not None)
    return f"; budget {text}" if text else ""


def _best(view: SweepView) -> list[Text]:
    values = outcomes(view.trials)
    return [_best_line(view, number, values[number]) for number in sorted(view.best)]


def _best_line(view: SweepView, number: int, values: Sequence[float]) -> Text:
    first = next(trial for trial in view.trials if trial.number == number)
    names = [objective.metric for objective in view.sweep.objectives]
    text = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, values, strict=True))
    return _line(f"best so far: {number} with {text} ({assignment_text(first.assignment)})", "green")


def _reasons(view: SweepView) -> list[Text]:
    failed = [trial for trial in view.trials if trial.status == "FAILED"]
    return [
        _line(f"trial {_name(view, trial)} failed: {trial.reason.partition(NEWLINE)[0]}", "red") for trial in failed
    ]


def _counts(trials: Sequence[TrialRecord]) -> str:
    counts = Counter(trial.status for trial in trials)
    return ", ".join(f"{counts[status]} {status.lower()}" for status in ORDER if counts[status])


def _in_order(view: SweepView) -> list[TrialRecord]:
    """Return the best trials, the running ones, and the others, each sorted by their objectives."""
    best, modes = view.best, view.modes

    def sort_key(trial: TrialRecord) -> tuple[bool, int, tuple[float, ...], int, int]:
        good = tuple(-value for value in signs(trial.points[-1].values, modes)) if trial.points else (float("inf"),)
        return (trial.number not in best, ORDER.index(trial.status), good, trial.number, trial.replica)

    return sorted(view.trials, key=sort_key)


def _columns(view: SweepView, shown: Sequence[TrialRecord]) -> Iterator[Column]:
    best, keys = view.best, list(view.sweep.space)
    yield Column("", [Text("best" if trial.number in best else "", "green") for trial in shown])
    yield Column("trial", [Text(str(trial.number)) for trial in shown], right=True)
    if view.sweep.replicas > 1:
        yield Column("replica", [Text(str(trial.replica)) for trial in shown], 2, right=True)
    yield Column("status", [Text(trial.status.lower(), STYLES[trial.status]) for trial in shown])
    for key, short in short_keys(keys).items():
        yield Column(short, [_value(trial, key) for trial in shown], 1, right=True)
    yield Column("samples", [_samples(trial) for trial in shown], 4, right=True)
    yield Column("of all", [_share(trial, view.file.samples) for trial in shown], 3, right=True)
    for index, name in enumerate(short_keys([objective.metric for objective in view.sweep.objectives], "/").values()):
        yield Column(name, [_objective(trial, index) for trial in shown], right=True)
    seconds = [elapsed_s(trial.started, trial.ended, view.now) for trial in shown]
    yield Column("elapsed", [Text(duration_text(elapsed)) for elapsed in seconds], 5, right=True)
    yield Column("cost", [_usd(view, trial) for trial in shown], 6, right=True)


def _value(trial: TrialRecord, key: str) -> Text:
    return Text(printable(value_text(trial.assignment[key])) if key in trial.assignment else "")


def _samples(trial: TrialRecord) -> Text:
    return Text(f"{trial.points[-1].samples:,}" if trial.points else "")


def _share(trial: TrialRecord, samples: int) -> Text:
    return Text(f"{trial.points[-1].samples / samples:.0%}" if trial.points and samples else "")


def _objective(trial: TrialRecord, index: int) -> Text:
    return Text(f"{trial.points[-1].values[index]:.4g}" if trial.points else "")


def _usd(view: SweepView, trial: TrialRecord) -> Text:
    spent = view.spent.get(trial.name)
    if spent is None or (spent.unpriced_node_hours and not spent.usd):
        return Text("")
    return Text(f"${spent.usd:,.2f}")


def _fitting(columns: list[Column], width: int) -> list[Column]:
    """Return the columns that fit; those of searched keys go one by one, the last first."""
    while sum(column.width + GAP for column in columns) - GAP > width and (
        most := max(column.dropped for column in columns)
    ):
        columns.remove([column for column in columns if column.dropped == most][-1])
    return columns


def _table(columns: Sequence[Column]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=True)
    for column in columns:
        justify: Literal["right", "left"] = "right" if column.right else "left"
        table.add_column(column.name, justify=justify, no_wrap=True, overflow="ellipsis")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*row)
    return table


def _name(view: SweepView, trial: TrialRecord) -> str:
    return f"{trial.number} (replica {trial.replica})" if view.sweep.replicas > 1 else str(trial.number)


def _line(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


@dataclass(frozen=True, slots=True)
class SweepView:
    """The state of a sweep at one time.

    Args:
        file: the sweep's record.
        sweep: its sections.
        trials: all started trials, by number and replica.
        spent: cost of trials by name, without those that are unknown.
        total: cost of the sweep's nodes.
        now: the time, with its time zone.
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
        return tuple(objective.mode for objective in self.sweep.objectives)

    @property
    def best(self) -> frozenset[int]:
        """Numbers of the best configurations so far."""
        return best(outcomes(self.trials), self.modes)

    @property
    def is_over(self) -> bool:
        """Whether the sweep has ended."""
        return self.file.status != "RUNNING"

    @property
    def seconds(self) -> float:
        """Duration of all starts of the sweep, in seconds."""
        return self.total.seconds or elapsed_s(self.file.created, self.file.ended, self.now) or 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        trials = [asdict(trial) | {"name": trial.name, "usd": self._usd(trial)} for trial in self.trials]
        return {
            **asdict(self.file),
            "trials_in_all": self.file.trials,
            "objectives": [objective.model_dump() for objective in self.sweep.objectives],
            "budget": self.sweep.budget.model_dump(),
            "elapsed_s": round(self.seconds, 1),
            "usd": round(self.total.usd, 4),
            "best": sorted(self.best),
            "trials": trials,
        }

    def _usd(self, trial: TrialRecord) -> float | None:
        return round(self.spent[trial.name].usd, 4) if trial.name in self.spent else None


def elapsed_s(begin: str, end: str, now: datetime) -> float | None:
    """Return the seconds between two ISO 8601 times, until now when the second one is empty, None without a first."""
    if not begin:
        return None
    until = datetime.fromisoformat(end) if end else now
    return max(0.0, (until - datetime.fromisoformat(begin)).total_seconds())


class SweepReader:
    """Reads a sweep's state repeatedly; what can no longer change is read once.

    Args:
        folder: the sweep's folder.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder = folder
        self._spending = TrialSpending(folder)
        self._section: Sweep | None = None

    def read(self, now: datetime | None = None) -> SweepView:
        """Return the sweep's current state.

        Args:
            now: the time; None for the current time.

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
