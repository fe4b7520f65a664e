"""From values of an objective to a few colours, each for as many configurations: one that diverged spoils no figure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.report.html import GRADES
from orchestrator.sweep.reporting.best import Mode


@dataclass(frozen=True, slots=True)
class Grades:
    """Colours for an objective.

    Args:
        edges: values between which a colour is used, ascending: one more than there are colours.
        colours: names in the palette, by value.
    """

    edges: tuple[float, ...]
    colours: tuple[str, ...]

    def colour(self, value: float) -> str:
        """Return the name of a value's colour."""
        return self.colours[min(max(bisect_right(self.edges, value) - 1, 0), len(self.colours) - 1)]


def grades(values: Sequence[float], mode: Mode) -> Grades:
    """Return colours from the palest for bad to the strongest for good values.

    Args:
        values: finite, at least one.
        mode: which are good.
    """
    edges = np.unique(np.quantile(np.asarray(values, dtype=np.float64), np.linspace(0, 1, len(GRADES) + 1)))
    if len(edges) < 2:
        return Grades((float(edges[0]), float(edges[0])), (GRADES[-1],))
    wanted = np.linspace(0, len(GRADES) - 1, len(edges) - 1).round().astype(int)
    colours = [GRADES[one] for one in wanted]
    return Grades(tuple(map(float, edges)), tuple(colours if mode == "max" else colours[::-1]))
