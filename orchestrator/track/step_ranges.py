"""A set of steps that is small however many they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator


class StepRanges:
    """A set of steps, kept as ranges: the steps of a long run are one or two of them.

    Args:
        steps: what is in it, in any order.
    """

    def __init__(self, steps: Iterable[int] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for step in sorted(steps):
            self.add(step)

    def add(self, step: int) -> None:
        """Put a step in."""
        if step in self:
            return
        at = bisect_right(self._starts, step)
        joins_left = at > 0 and self._stops[at - 1] == step
        joins_right = at < len(self._starts) and self._starts[at] == step + 1
        if joins_left and joins_right:
            self._stops[at - 1] = self._stops.pop(at)
            del self._starts[at]
        elif joins_left:
            self._stops[at - 1] = step + 1
        elif joins_right:
            self._starts[at] = step
        else:
            self._starts.insert(at, step)
            self._stops.insert(at, step + 1)

    @property
    def stop(self) -> int:
        """The step after the last one, 0 when there is none."""
        return self._stops[-1] if self._stops else 0

    def covers(self, steps: range) -> bool:
        """Return whether all of some neighbouring steps are in it."""
        if not steps:
            return True
        at = bisect_right(self._starts, steps.start)
        return at > 0 and steps.stop <= self._stops[at - 1]

    def __contains__(self, step: int) -> bool:
        return self.covers(range(step, step + 1))

    def __iter__(self) -> Iterator[int]:
        for start, stop in zip(self._starts, self._stops, strict=True):
            yield from range(start, stop)

    def __len__(self) -> int:
        return sum(stop - start for start, stop in zip(self._starts, self._stops, strict=True))
