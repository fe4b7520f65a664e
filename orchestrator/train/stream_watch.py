"""Watches how long training waits for the stream, and speaks up when that is long."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.stream.bottleneck import advice

STEPS = 100
"""Steps between two looks."""


class StreamWatch:
    """Looks at the waiting of every hundred steps; the first ones, with the start of the stream, do not count."""

    def __init__(self) -> None:
        self._steps = 0
        self._busy_s = 0.0
        self._before: tuple[float, float] | None = None

    def step(self, metrics: Mapping[str, float], busy_s: float) -> str | None:
        """Take in a step; return what to tell the user, if anything.

        Args:
            metrics: of the step, with the waits of the whole attempt so far.
            busy_s: seconds of the step.
        """
        waits = metrics.get("stream/waited_for_reading_s", 0.0), metrics.get("stream/waited_for_decoding_s", 0.0)
        self._steps, self._busy_s = self._steps + 1, self._busy_s + busy_s
        if self._before is None:
            self._before, self._steps, self._busy_s = waits, 0, 0.0
        if self._steps < STEPS:
            return None
        found = advice(waits[0] - self._before[0], waits[1] - self._before[1], self._busy_s)
        self._before, self._steps, self._busy_s = waits, 0, 0.0
        return found
