"""What the starts of a run have used, put together: in all, and up to any time, for a curve over the steps."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from orchestrator.track.costs import Kind, Period, Spent, Start

MS_PER_HOUR = 3_600_000


class Costs:
    """What the starts of a run have used, all in all and up to any time.

    A second is charged once: where starts overlap, since a driver was not yet quite dead when its successor began, the
    later one counts.

    Args:
        starts: of the run.
        running: whether the last one goes on; its machines are then taken to stay.
    """

    def __init__(self, starts: Iterable[Start] = (), running: bool = False) -> None:
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

    def spent(self) -> Spent:
        """Return what was used in all."""
        node_seconds: dict[Kind, float] = defaultdict(float)
        for share, period in self._periods:
            for kind, count in period.nodes.items():
                node_seconds[kind] += share * count * (period.end_ms - period.begin_ms) / 1000
        seconds = sum(start.end_ms - start.begin_ms for start in self._starts) / 1000
        return Spent(seconds, {kind: used for kind, used in node_seconds.items() if used})


def _one_after_the_other(starts: Iterable[Start]) -> Iterator[Start]:
    ordered = sorted(starts, key=lambda start: start.begin_ms)
    for start, following in pairwise(ordered):
        yield _before(start, following.begin_ms)
    yield from ordered[-1:]


def _before(start: Start, end_ms: int) -> Start:
    """Return what a start had used by a time."""
    periods = tuple(
        replace(period, end_ms=min(period.end_ms, end_ms)) for period in start.periods if period.begin_ms < end_ms
    )
    return replace(start, end_ms=min(start.end_ms, end_ms), periods=periods)


def _figures(share: float, period: Period, at_ms: int) -> tuple[float, float, float]:
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
