"""Where a key's values lie between 0 and 1 along an axis, and what the axis says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import LogLocator, MaxNLocator

from orchestrator.config.search_space import Choice, Domain, Range
from orchestrator.sweep.reporting.words import LONGEST, label, number_text, value_text

MOST_TICKS = 7


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis over a domain: a range takes all of it, choices stand in the middle of equal parts."""

    domain: Domain

    @property
    def is_numeric(self) -> bool:
        """Whether values between two others mean something."""
        return isinstance(self.domain, Range)

    def place(self, value: Any) -> float:
        """Return where a value of the domain lies, in [0, 1]."""
        if isinstance(self.domain, Choice):
            return (self.domain.values.index(value) + 0.5) / len(self.domain.values)
        low, high, at = (self._measure(one) for one in (self.domain.low, self.domain.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self, letters: int = LONGEST) -> list[tuple[float, str]]:
        """Return places and what is written there.

        Args:
            letters: that there is room for at a choice.
        """
        if isinstance(self.domain, Choice):
            return [(self.place(value), label(value_text(value), letters)) for value in self.domain.values]
        return [(self.place(one), number_text(one)) for one in _round_numbers(self.domain)]

    def _measure(self, value: float) -> float:
        return math.log(value) if isinstance(self.domain, Range) and self.domain.logarithmic else float(value)


def _round_numbers(domain: Range) -> list[float]:
    decades = math.log10(domain.high / domain.low) if domain.logarithmic else 0.0
    if domain.logarithmic and decades >= 1:
        locator: Any = LogLocator(subs=(1.0,) if decades >= 2 else (1.0, 2.0, 5.0), numticks=MOST_TICKS)
    else:
        locator = MaxNLocator(5, steps=(1, 2, 5, 10), integer=domain.whole)
    within = [float(one) for one in locator.tick_values(domain.low, domain.high)]
    found = [one for one in within if domain.low * (1 - 1e-9) <= one <= domain.high * (1 + 1e-9)]
    return found if len(found) > 1 else [float(domain.low), float(domain.high)]
