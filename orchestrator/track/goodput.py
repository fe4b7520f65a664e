"""Goodput: the share of a run's wall time that went into steps that count."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

AROUND_THE_STEP = ("startup", "evaluation", "checkpoint")
"""Parts of a record's seconds that are not the step itself."""


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """Where a run's wall time went, in seconds.

    Args:
        productive_s: in steps that count.
        lost_s: in steps that were done again later.
        downtime_s: in everything else: starting, saving, measuring, waiting to be resumed.
    """

    productive_s: float
    lost_s: float
    downtime_s: float

    @property
    def goodput(self) -> float:
        """The share spent in steps that count, 0 before there is any."""
        total_s = self.productive_s + self.lost_s + self.downtime_s
        return self.productive_s / total_s if total_s > 0 else 0.0


class StepTimes:
    """The seconds of every step; of a step that is done again, the last ones count and the others are lost."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._busy_s = array("d")
        self._productive_s = 0.0
        self._lost_s = 0.0

    def enter(self, step: int, busy_s: float) -> None:
        """Enter a step; those that were entered before and are not earlier than it are lost."""
        if self._first is None or step < self._first:
            self._first, at = step, 0
        else:
            at = step - self._first
        lost_s = sum(self._busy_s[at:])
        del self._busy_s[at:]
        self._busy_s.extend(0.0 for _ in range(at - len(self._busy_s)))
        self._busy_s.append(busy_s)
        self._productive_s += busy_s - lost_s
        self._lost_s += lost_s

    def spent(self, wall_s: float) -> TimeSpent:
        """Return where the time since the first start went.

        Args:
            wall_s: seconds since then.
        """
        downtime_s = max(0.0, wall_s - self._productive_s - self._lost_s)
        return TimeSpent(self._productive_s, self._lost_s, downtime_s)


def busy_seconds(seconds: Mapping[str, float]) -> float:
    """Return the time that a step itself took, of the parts of a record."""
    return sum(value for part, value in seconds.items() if part not in AROUND_THE_STEP)
