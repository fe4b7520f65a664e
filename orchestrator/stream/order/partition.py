"""Which worker runs which micro-batch, and in which blocks they are sent to it. Pure functions.

The result of a step does not depend on them.

Micro-batches are numbered through the run: step s has the numbers s*M to s*M + M - 1. A worker's micro-batches of
some consecutive steps are one block; the blocks of all workers for the same steps are a round. A Ray Data execution
gives block b to worker b mod W as long as all blocks of a round have the same number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

FIRST_SEGMENT_BLOCKS = 64
SEGMENT_BLOCKS = 2048
"""An execution takes about 1 ms per block to start, so the first one is short and all are limited."""

MIN_ROUNDS = 4
"""Least number of rounds of a segment: the next segment starts when half of one is used."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one Ray Data execution delivers: rounds of consecutive steps."""

    rounds: tuple[range, ...]

    @property
    def steps(self) -> range:
        """The steps of all rounds."""
        return range(self.rounds[0].start, self.rounds[-1].stop)


@dataclass(frozen=True, slots=True)
class WorkerPartition:
    """How the micro-batches of a step are divided among the workers.

    Args:
        micro_batches: micro-batches per step (M).
        workers: training workers (W), at most M.
        first_step: the first step to run.
        steps: steps in the whole run.
        block_steps: most steps of a round. The first round has one step, so that training starts early, and the
            following ones double; later ones start at multiples of it.
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
        while segment := tuple(islice(rounds, max(MIN_ROUNDS, blocks // self.workers))):
            yield Segment(segment)
            blocks = SEGMENT_BLOCKS

    def block_micro_batches(self, steps: Sequence[int], worker: int) -> list[int]:
        """Return the micro-batches of a worker's block in a round."""
        return [number for step in steps for number in self.micro_batches_of(step, worker)]

    def block_rows(self, steps: Sequence[int]) -> int:
        """Return the rows of every block of a round; those of workers with fewer micro-batches are padded."""
        return len(steps) * -(-self.micro_batches // self.workers)
