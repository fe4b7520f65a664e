"""A sweep on the terminal: a headline, and a table of its trials that fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.cli.job_table import duration
from orchestrator.cli.printable import printable
from orchestrator.cli.sweep_view import SweepView, between
from orchestrator.sweep.describing import described, short_keys, value_text
from orchestrator.sweep.ranking import outcomes, signs

if TYPE_CHECKING:
    from orchestrator.sweep.folder import Status, TrialRecord

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
    yield _line(f"elapsed {duration(view.seconds)}; cost ${view.total.usd:,.2f}{more}{_budget(view)}")


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
    yield Column("elapsed", [Text(duration(one)) for one in seconds], 5, right=True)
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
