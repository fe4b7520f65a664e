"""What a run's machines cost: which were there when, and what that comes to. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Kind:
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
class Period:
    """A time in which the same machines were there.

    Args:
        begin_ms: when it began, in milliseconds since 1970.
        end_ms: when it was last seen to go on.
        nodes: how many machines, by kind.
    """

    begin_ms: int
    end_ms: int
    nodes: Mapping[Kind, int]


@dataclass(frozen=True, slots=True)
class Start:
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
    periods: tuple[Period, ...] = ()

    def seen(self, now_ms: int, nodes: Mapping[Kind, int]) -> Start:
        """Return this start after a look at the machines; until now it had those of the look before.

        Args:
            now_ms: the time; one before the last look's counts as that one's, should a clock be put back.
            nodes: the machines that are there now.
        """
        start = self.until(now_ms)
        if start.periods and start.periods[-1].nodes == nodes:
            return start
        return replace(start, periods=(*start.periods, Period(start.end_ms, start.end_ms, dict(nodes))))

    def until(self, now_ms: int) -> Start:
        """Return this start as it is when it goes on until now with the same machines."""
        end_ms = max(now_ms, self.end_ms)
        periods = (*self.periods[:-1], replace(self.periods[-1], end_ms=end_ms)) if self.periods else ()
        return replace(self, end_ms=end_ms, periods=periods)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used.

    Args:
        seconds: wall time of its starts.
        node_seconds: seconds of machines by kind, as far as they are charged to the run.
    """

    seconds: float = 0.0
    node_seconds: Mapping[Kind, float] = field(default_factory=dict)

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


def added(parts: Iterable[Spent]) -> Spent:
    """Return what several runs have used together; their seconds add up, too."""
    seconds, nodes = 0.0, defaultdict[Kind, float](float)
    for part in parts:
        seconds += part.seconds
        for kind, used in part.node_seconds.items():
            nodes[kind] += used
    return Spent(seconds, dict(nodes))


def cost_tags(spent: Spent) -> dict[str, str]:
    """Return the tags that tell what a run has cost: in all, and by kind of machine."""
    if not spent.node_seconds:
        return {}
    totals = {"cost_usd": f"{spent.usd:.4f}", "cost_node_hours": f"{spent.node_hours:.4f}"}
    return totals | {f"node_hours/{name}": f"{hours:.4f}" for name, hours in sorted(_by_name(spent).items())}


def _by_name(spent: Spent) -> dict[str, float]:
    """Return node-hours by the name of the kind, which prices of several dates may share."""
    hours: dict[str, float] = defaultdict(float)
    for kind, seconds in spent.node_seconds.items():
        hours[kind.name] += seconds / 3600
    return hours
