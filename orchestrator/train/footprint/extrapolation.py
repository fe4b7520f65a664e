"""From the memory of small micro-batches to that of a large one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
    """Bytes that are linear in the size of a micro-batch."""

    fixed: int
    per_sample: int

    def at(self, size: int) -> int:
        """Return the bytes at a size."""
        return self.fixed + self.per_sample * size


class Run(NamedTuple):
    """A micro-batch that was run: its size, and the bytes alive after each of its operations."""

    size: int
    timeline: Sequence[int]


def extrapolate(runs: Sequence[Run], size: int) -> Line:
    """Return the line through the moment at which a micro-batch of some size has the most bytes alive.

    Micro-batches of different sizes do the same operations, so every operation has a line of its own; which one is
    the highest depends on the size. Where the operations differ, the line goes through the highest points.

    Args:
        runs: one, or a smaller and a larger one.
        size: of the micro-batch that is asked about.
    """
    small, large = runs[0], runs[-1]
    if small.size == large.size:
        return Line(0, -(-max(large.timeline) // large.size))
    low, high = np.asarray(small.timeline, dtype=np.float64), np.asarray(large.timeline, dtype=np.float64)
    if len(low) != len(high):
        low, high = low.max(keepdims=True), high.max(keepdims=True)
    per_sample = (high - low) / (large.size - small.size)
    fixed = low - per_sample * small.size
    highest = int(np.argmax(fixed + per_sample * size))
    return Line(round(fixed[highest]), round(per_sample[highest]))
