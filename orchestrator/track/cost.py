"""Cost of a run: its nodes over time, their prices, and the totals.

Every start of a run has a file of its own, which only that start writes, atomically. So a resumed run knows what its
earlier starts used, writing a file again counts nothing twice, and a driver that is killed loses only the seconds since
its last write.
"""

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
    """Nodes of one machine type and price.

    Args:
        machine: machine type, a key of the price table; None when the node has no label.
        market: spot, on-demand or owned; None when the node has no label.
        usd_per_hour: price of one node; None when unknown.
    """

    machine: str | None
    market: str | None
    usd_per_hour: float | None

    @property
    def name(self) -> str:
        """A short name, such as p5.48xlarge/spot."""
        return f"{self.machine or 'unlabelled'}/{self.market}" if self.market else self.machine or "unlabelled"


@dataclass(frozen=True, slots=True)
class UsagePeriod:
    """A period with a constant set of nodes.

    Args:
        begin_ms: its begin, in milliseconds since 1970.
        end_ms: when it was last observed.
        nodes: number of nodes by kind.
    """

    begin_ms: int
    end_ms: int
    nodes: Mapping[MachineKind, int]


@dataclass(frozen=True, slots=True)
class StartUsage:
    """Nodes used by one start of a run.

    Args:
        begin_ms: its begin, in milliseconds since 1970.
        end_ms: when it was last observed.
        share: the share of the nodes that is charged to the run.
        periods: consecutive, without overlap.
    """

    begin_ms: int
    end_ms: int
    share: float = 1.0
    periods: tuple[UsagePeriod, ...] = ()

    def seen(self, now_ms: int, nodes: Mapping[MachineKind, int]) -> StartUsage:
        """Return this start after observing the nodes; the last observed ones are charged until now.

        Args:
            now_ms: the time; one before the last observation counts as that one's, in case a clock was set back.
            nodes: the current nodes.
        """
        start = self.until(now_ms)
        if start.periods and start.periods[-1].nodes == nodes:
            return start
        return replace(start, periods=(*start.periods, UsagePeriod(start.end_ms, start.end_ms, dict(nodes))))

    def until(self, now_ms: int) -> StartUsage:
        """Return this start extended until now with the same nodes."""
        end_ms = max(now_ms, self.end_ms)
        periods = (*self.periods[:-1], replace(self.periods[-1], end_ms=end_ms)) if self.periods else ()
        return replace(self, end_ms=end_ms, periods=periods)


@dataclass(frozen=True, slots=True)
class RunCost:
    """Total usage and cost of a run.

    Args:
        seconds: wall time of its starts.
        node_seconds: node-seconds by kind that are charged to the run.
    """

    seconds: float = 0.0
    node_seconds: Mapping[MachineKind, float] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Wall time of its starts, in hours."""
        return self.seconds / 3600

    @property
    def usd(self) -> float:
        """Cost of the nodes with a known price."""
        return sum(seconds / 3600 * (kind.usd_per_hour or 0.0) for kind, seconds in self.node_seconds.items())

    @property
    def node_hours(self) -> float:
        """Node-hours, priced or not."""
        return sum(self.node_seconds.values()) / 3600

    @property
    def unpriced_node_hours(self) -> float:
        """Node-hours without a known price."""
        return sum(seconds for kind, seconds in self.node_seconds.items() if kind.usd_per_hour is None) / 3600

    def describe(self) -> str:
        """Return the cost as text."""
        unpriced = self.unpriced_node_hours
        without = f", {unpriced:.2f} of them without a known price" if unpriced else ""
        return f"{self.usd:.2f} USD for {self.node_hours:.2f} node-hours{without}"


def total_cost(parts: Iterable[RunCost]) -> RunCost:
    """Return the sum of several runs' usage, their wall time included."""
    seconds, nodes = 0.0, defaultdict[MachineKind, float](float)
    for part in parts:
        seconds += part.seconds
        for kind, seconds_used in part.node_seconds.items():
            nodes[kind] += seconds_used
    return RunCost(seconds, dict(nodes))


def cost_tags(spent: RunCost) -> dict[str, str]:
    """Return the MLflow tags of a run's cost: the total, and node-hours by kind."""
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


MS_PER_HOUR = 3_600_000


class Costs:
    """Usage of all starts of a run, in total and up to any time.

    A second is charged once: where starts overlap, because a driver had not quite ended when its successor began, the
    later one counts.

    Args:
        starts: of the run.
        running: whether the last one is still running; its nodes are then assumed to stay.
    """

    def __init__(self, starts: Iterable[StartUsage] = (), running: bool = False) -> None:
        self._starts = list(_one_after_the_other(starts))
        self._running = running
        self._periods = [(start.share, period) for start in self._starts for period in start.periods]
        self._begins = [period.begin_ms for _, period in self._periods]
        self._until = list(_sums(_used_in_period(share, period, period.end_ms) for share, period in self._periods))

    def __bool__(self) -> bool:
        return bool(self._periods)

    def metrics(self, at_ms: int) -> dict[str, float]:
        """Return the logged metrics at a time in milliseconds since 1970; empty when nothing is known."""
        if not self:
            return {}
        index = bisect_right(self._begins, at_ms) - 1
        if index < 0:
            usd, node_hours, unpriced = 0.0, 0.0, 0.0
        else:
            share, period = self._periods[index]
            still_running = self._running and index == len(self._periods) - 1
            present = _used_in_period(share, period, at_ms if still_running else min(at_ms, period.end_ms))
            usd, node_hours, unpriced = (a + b for a, b in zip(self._until[index], present, strict=True))
        return {"cost/usd": usd, "cost/node_hours": node_hours} | (
            {"cost/unpriced_node_hours": unpriced} if unpriced else {}
        )

    def spent(self) -> RunCost:
        """Return the total usage."""
        node_seconds: dict[MachineKind, float] = defaultdict(float)
        for share, period in self._periods:
            for kind, count in period.nodes.items():
                node_seconds[kind] += share * count * (period.end_ms - period.begin_ms) / 1000
        seconds = sum(start.end_ms - start.begin_ms for start in self._starts) / 1000
        return RunCost(seconds, {kind: seconds_used for kind, seconds_used in node_seconds.items() if seconds_used})


def _one_after_the_other(starts: Iterable[StartUsage]) -> Iterator[StartUsage]:
    ordered = sorted(starts, key=lambda start: start.begin_ms)
    for start, following in pairwise(ordered):
        yield _until(start, following.begin_ms)
    yield from ordered[-1:]


def _until(start: StartUsage, end_ms: int) -> StartUsage:
    """Return a start's usage up to a time."""
    periods = tuple(
        replace(period, end_ms=min(period.end_ms, end_ms)) for period in start.periods if period.begin_ms < end_ms
    )
    return replace(start, end_ms=min(start.end_ms, end_ms), periods=periods)


def _used_in_period(share: float, period: UsagePeriod, at_ms: int) -> tuple[float, float, float]:
    """Return USD, node-hours and unpriced node-hours of a period up to a time."""
    hours = share * (at_ms - period.begin_ms) / MS_PER_HOUR
    usd = sum(count * (kind.usd_per_hour or 0.0) for kind, count in period.nodes.items())
    unpriced = sum(count for kind, count in period.nodes.items() if kind.usd_per_hour is None)
    return hours * usd, hours * sum(period.nodes.values()), hours * unpriced


def _sums(amounts: Iterable[Sequence[float]]) -> Iterator[tuple[float, float, float]]:
    """Yield the running totals before each."""
    usd, node_hours, unpriced = 0.0, 0.0, 0.0
    for more_usd, more_hours, more_unpriced in amounts:
        yield usd, node_hours, unpriced
        usd, node_hours, unpriced = usd + more_usd, node_hours + more_hours, unpriced + more_unpriced


class CostRecordError(FuserayError):
    """A cost file is damaged."""


def write_start(folder: Location, start: StartUsage) -> None:
    """Write a start's usage so far, replacing its file.

    Raises:
        StorageError: it cannot be written.
    """
    kinds = list(dict.fromkeys(kind for period in start.periods for kind in period.nodes))
    values = {
        "begin_ms": start.begin_ms,
        "end_ms": start.end_ms,
        "share": start.share,
        "machines": [
            {"machine": kind.machine, "market": kind.market, "usd_per_hour": kind.usd_per_hour} for kind in kinds
        ],
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
    """Return the usage of all starts of a run; empty when nothing was written.

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
            f"{file.uri}: is damaged ({error}); move it away to continue as if that start had cost nothing."
        ) from error


def _period(values: dict[str, Any], kinds: list[MachineKind]) -> UsagePeriod:
    nodes = {kind: int(count) for kind, count in zip(kinds, values["nodes"], strict=True) if count}
    return UsagePeriod(int(values["begin_ms"]), int(values["end_ms"]), nodes)
