"""Which worker runs which micro-batch, and how they travel. Pure functions; a step's result does not depend on them.

Micro-batches are numbered through the run: step s has the numbers s*M to s*M + M - 1. A worker's micro-batches of
some neighbouring steps travel in one block; the blocks of all workers for the same steps are a round. A Ray Data
execution hands block b to worker b mod W as long as all blocks of a round have equally many rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

FIRST_SEGMENT_BLOCKS = 64
SEGMENT_BLOCKS = 2048
"""An execution takes about 1 ms to start for every block in it, so the first is short, and none is endless."""

MIN_ROUNDS = 4
"""Rounds of a segment at least: the next segment starts when one is half used."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one Ray Data execution delivers: rounds of neighbouring steps."""

    rounds: tuple[range, ...]

    @property
    def steps(self) -> range:
        """The steps of all rounds."""
        return range(self.rounds[0].start, self.rounds[-1].stop)


@dataclass(frozen=True, slots=True)
class WorkerPartition:
    """How the micro-batches of a step are shared out.

    Args:
        micro_batches: micro-batches per step (M).
        workers: training workers (W), at most M.
        first_step: the first step to be done.
        steps: steps in the whole run.
        block_steps: steps of a round; rounds begin with one step and double, so that training starts early, and later
            ones start at a multiple of it.
    """

    micro_batches: int
    workers: int
    first_step: int
    steps: int
    block_steps: int = 1

    def micro_batches_of(self, step: int, worker: int) -> range:
        """Return the micro-batches of a step that a worker runs."""
        first = step * self.micro_batches
        return range(
            first + worker * self.micro_batches // self.workers,
            first + (worker + 1) * self.micro_batches // self.workers,
        )

    def rounds(self) -> Iterator[range]:
        """Yield the steps of every round."""
        start, size = self.first_step, 1
        while start < self.steps:
            stop = min(start + size, self.steps, start + self.block_steps - start % self.block_steps)
            yield range(start, stop)
            start, size = stop, 2 * size

    def segments(self) -> Iterator[Segment]:
        """Yield the segments of the run."""
        rounds = self.rounds()
        blocks = FIRST_SEGMENT_BLOCKS
        while taken := tuple(islice(rounds, max(MIN_ROUNDS, blocks // self.workers))):
            yield Segment(taken)
            blocks = SEGMENT_BLOCKS

    def block(self, steps: Sequence[int], worker: int) -> list[int]:
        """Return the micro-batches of a worker's block in a round."""
        return [number for step in steps for number in self.micro_batches_of(step, worker)]

    def rows(self, steps: Sequence[int]) -> int:
        """Return the rows of every block of a round; blocks of workers with less to do are filled up."""
        return len(steps) * -(-self.micro_batches // self.workers)
