"""What a run's machines cost: which were there when, and what that comes to. Pure."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import json_bytes


@dataclass(frozen=True, slots=True)
class MachineKind:
    """Machines of one kind and price.

    Args:
        machine: type of machine, as the price table knows it; None when the node does not say.
        market: spot, on-demand or owned; None when the node does not say.
        usd_per_hour: price of one; None when it is unknown.
    """

    machine: str | None
    market: str | None
    usd_per_hour: float | None

    @property
    def name(self) -> str:
        """The kind in a word or two, such as p5.48xlarge/spot."""
        return f"{self.machine or 'unlabelled'}/{self.market}" if self.market else self.machine or "unlabelled"


@dataclass(frozen=True, slots=True)
class UsagePeriod:
    """A time in which the same machines were there.

    Args:
        begin_ms: when it began, in milliseconds since 1970.
        end_ms: when it was last seen to go on.
        nodes: how many machines, by kind.
    """

    begin_ms: int
    end_ms: int
    nodes: Mapping[MachineKind, int]


@dataclass(frozen=True, slots=True)
class StartUsage:
    """What one start of a run has used.

    Args:
        begin_ms: when it began, in milliseconds since 1970.
        end_ms: when it was last seen to go on.
        share: the part of the machines that is charged to the run.
        periods: one after the other, without overlap.
    """

    begin_ms: int
    end_ms: int
    share: float = 1.0
    periods: tuple[UsagePeriod, ...] = ()

    def seen(self, now_ms: int, nodes: Mapping[MachineKind, int]) -> StartUsage:
        """Return this start after a look at the machines; until now it had those of the look before.

        Args:
            now_ms: the time; one before the last look's counts as that one's, should a clock be put back.
            nodes: the machines that are there now.
        """
        start = self.until(now_ms)
        if start.periods and start.periods[-1].nodes == nodes:
            return start
        return replace(start, periods=(*start.periods, UsagePeriod(start.end_ms, start.end_ms, dict(nodes))))

    def until(self, now_ms: int) -> StartUsage:
        """Return this start as it is when it goes on until now with the same machines."""
        end_ms = max(now_ms, self.end_ms)
        periods = (*self.periods[:-1], replace(self.periods[-1], end_ms=end_ms)) if self.periods else ()
        return replace(self, end_ms=end_ms, periods=periods)


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run has used.

    Args:
        seconds: wall time of its starts.
        node_seconds: seconds of machines by kind, as far as they are charged to the run.
    """

    seconds: float = 0.0
    node_seconds: Mapping[MachineKind, float] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Wall time of its starts, in hours."""
        return self.seconds / 3600

    @property
    def usd(self) -> float:
        """What the machines with a known price cost."""
        return sum(seconds / 3600 * (kind.usd_per_hour or 0.0) for kind, seconds in self.node_seconds.items())

    @property
    def node_hours(self) -> float:
        """Hours of machines, whatever they cost."""
        return sum(self.node_seconds.values()) / 3600

    @property
    def unpriced_node_hours(self) -> float:
        """Hours of machines without a known price."""
        return sum(seconds for kind, seconds in self.node_seconds.items() if kind.usd_per_hour is None) / 3600

    def describe(self) -> str:
        """Return the cost in words."""
        unpriced = self.unpriced_node_hours
        without = f", {unpriced:.2f} of them without a known price" if unpriced else ""
        return f"{self.usd:.2f} USD for {self.node_hours:.2f} node-hours{without}"


def total_cost(parts: Iterable[RunCost]) -> RunCost:
    """Return what several runs have used together; their seconds add up, too."""
    seconds, nodes = 0.0, defaultdict[MachineKind, float](float)
    for part in parts:
        seconds += part.seconds
        for kind, used in part.node_seconds.items():
            nodes[kind] += used
    return RunCost(seconds, dict(nodes))


def cost_tags(spent: RunCost) -> dict[str, str]:
    """Return the tags that tell what a run has cost: in all, and by kind of machine."""
    if not spent.node_seconds:
        return {}
    totals = {"cost_usd": f"{spent.usd:.4f}", "cost_node_hours": f"{spent.node_hours:.4f}"}
    return totals | {f"node_hours/{name}": f"{hours:.4f}" for name, hours in sorted(_by_name(spent).items())}


def _by_name(spent: RunCost) -> dict[str, float]:
    """Return node-hours by the name of the kind, which prices of several dates may share."""
    hours: dict[str, float] = defaultdict(float)
    for kind, seconds in spent.node_seconds.items():
        hours[kind.name] += seconds / 3600
    return hours


# What the starts of a run have used, put together: in all, and up to any time, for a curve over the steps.


MS_PER_HOUR = 3_600_000


class Costs:
    """What the starts of a run have used, all in all and up to any time.

    A second is charged once: where starts overlap, since a driver was not yet quite dead when its successor began, the
    later one counts.

    Args:
        starts: of the run.
        running: whether the last one goes on; its machines are then taken to stay.
    """

    def __init__(self, starts: Iterable[StartUsage] = (), running: bool = False) -> None:
        self._starts = list(_one_after_the_other(starts))
        self._running = running
        self._periods = [(start.share, period) for start in self._starts for period in start.periods]
        self._begins = [period.begin_ms for _, period in self._periods]
        self._before = list(_sums(_figures(share, period, period.end_ms) for share, period in self._periods))

    def __bool__(self) -> bool:
        return bool(self._periods)

    def metrics(self, at_ms: int) -> dict[str, float]:
        """Return the figures that are tracked, as of a time in milliseconds since 1970; none when nothing is known."""
        if not self:
            return {}
        at = bisect_right(self._begins, at_ms) - 1
        if at < 0:
            usd, node_hours, unpriced = 0.0, 0.0, 0.0
        else:
            share, period = self._periods[at]
            goes_on = self._running and at == len(self._periods) - 1
            present = _figures(share, period, at_ms if goes_on else min(at_ms, period.end_ms))
            usd, node_hours, unpriced = (a + b for a, b in zip(self._before[at], present, strict=True))
        return {"cost/usd": usd, "cost/node_hours": node_hours} | (
            {"cost/unpriced_node_hours": unpriced} if unpriced else {}
        )

    def spent(self) -> RunCost:
        """Return what was used in all."""
        node_seconds: dict[MachineKind, float] = defaultdict(float)
        for share, period in self._periods:
            for kind, count in period.nodes.items():
                node_seconds[kind] += share * count * (period.end_ms - period.begin_ms) / 1000
        seconds = sum(start.end_ms - start.begin_ms for start in self._starts) / 1000
        return RunCost(seconds, {kind: used for kind, used in node_seconds.items() if used})


def _one_after_the_other(starts: Iterable[StartUsage]) -> Iterator[StartUsage]:
    ordered = sorted(starts, key=lambda start: start.begin_ms)
    for start, following in pairwise(ordered):
        yield _before(start, following.begin_ms)
    yield from ordered[-1:]


def _before(start: StartUsage, end_ms: int) -> StartUsage:
    """Return what a start had used by a time."""
    periods = tuple(
        replace(period, end_ms=min(period.end_ms, end_ms)) for period in start.periods if period.begin_ms < end_ms
    )
    return replace(start, end_ms=min(start.end_ms, end_ms), periods=periods)


def _figures(share: float, period: UsagePeriod, at_ms: int) -> tuple[float, float, float]:
    """Return USD, node-hours and unpriced node-hours of a period up to a time."""
    hours = share * (at_ms - period.begin_ms) / MS_PER_HOUR
    usd = sum(count * (kind.usd_per_hour or 0.0) for kind, count in period.nodes.items())
    unpriced = sum(count for kind, count in period.nodes.items() if kind.usd_per_hour is None)
    return hours * usd, hours * sum(period.nodes.values()), hours * unpriced


def _sums(figures: Iterable[Sequence[float]]) -> Iterator[tuple[float, float, float]]:
    """Yield the sums of all figures before each."""
    usd, node_hours, unpriced = 0.0, 0.0, 0.0
    for more_usd, more_hours, more_unpriced in figures:
        yield usd, node_hours, unpriced
        usd, node_hours, unpriced = usd + more_usd, node_hours + more_hours, unpriced + more_unpriced


# A run's record of its machines: a file for each start, which only that start writes, whole or not at all.
#
# So a run that goes on knows what its earlier starts have used, nothing is entered twice however often a file is
# written, and a driver that is killed loses what it had not yet written down: some seconds.


class CostRecordError(FuserayError):
    """A file of the record is damaged."""


def write_start(folder: Location, start: StartUsage) -> None:
    """Write down what a start has used so far, in the place of what was written before.

    Raises:
        StorageError: it cannot be written.
    """
    kinds = list(dict.fromkeys(kind for period in start.periods for kind in period.nodes))
    values = {
        "begin_ms": start.begin_ms,
        "end_ms": start.end_ms,
        "share": start.share,
        "machines": [{"machine": one.machine, "market": one.market, "usd_per_hour": one.usd_per_hour} for one in kinds],
        "periods": [
            {
                "begin_ms": period.begin_ms,
                "end_ms": period.end_ms,
                "nodes": [period.nodes.get(kind, 0) for kind in kinds],
            }
            for period in start.periods
        ],
    }
    (folder / f"start-{start.begin_ms}.json").write(json_bytes(values))


def read_starts(folder: Location) -> list[StartUsage]:
    """Return what all starts of a run have used; none of them when nothing was written down.

    Raises:
        CostRecordError: a file is damaged.
        StorageError: the record cannot be read.
    """
    return [_read(file) for file in folder.list() if file.name.startswith("start-") and file.name.endswith(".json")]


def _read(file: Location) -> StartUsage:
    try:
        values = json.loads(file.read())
        kinds = [MachineKind(**kind) for kind in values["machines"]]
        periods = tuple(_period(period, kinds) for period in values["periods"])
        return StartUsage(int(values["begin_ms"]), int(values["end_ms"]), float(values["share"]), periods)
    except (ValueError, KeyError, TypeError) as error:
        raise CostRecordError(
            f"{file.uri}: is damaged ({error}); move it away to go on as if that start had cost nothing."
        ) from error


def _period(values: dict[str, Any], kinds: list[MachineKind]) -> UsagePeriod:
    nodes = {kind: int(count) for kind, count in zip(kinds, values["nodes"], strict=True) if count}
    return UsagePeriod(int(values["begin_ms"]), int(values["end_ms"]), nodes)
