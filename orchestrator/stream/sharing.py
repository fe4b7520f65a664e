"""Which worker runs which micro-batch. Pure functions; the result of a step does not depend on them.

Micro-batches are numbered through the run: step s has the numbers s*M to s*M + M - 1. They travel in blocks of
equal size, and a Ray Data execution hands block b of its segment to worker b mod W.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the micro-batches of a step are shared out.

    Args:
        micro_batches: micro-batches per step (M).
        workers: training workers (W), at most M.
        segment_steps: steps per segment.
        first_step: the step at which the first segment starts.
        steps: steps in the whole run.
    """

    micro_batches: int
    workers: int
    segment_steps: int
    first_step: int
    steps: int

    @property
    def block(self) -> int:
        """Micro-batches per block: a worker's whole share of a step when it is even, else one."""
        even = self.micro_batches % self.workers == 0
        return self.micro_batches // self.workers if even else 1

    def segments(self) -> list[range]:
        """Return the steps of every segment, in order."""
        starts = range(self.first_step, self.steps, self.segment_steps)
        return [range(start, min(start + self.segment_steps, self.steps)) for start in starts]

    def micro_batches_of(self, steps: range) -> range:
        """Return the numbers of the micro-batches of some steps."""
        return range(steps.start * self.micro_batches, steps.stop * self.micro_batches)

    def worker_of(self, micro_batch: int) -> int:
        """Return the worker that runs a micro-batch."""
        segment_start = self._segment_start(micro_batch // self.micro_batches) * self.micro_batches
        return (micro_batch - segment_start) // self.block % self.workers

    def share(self, step: int, worker: int) -> list[int]:
        """Return the micro-batches of a step that a worker runs, in the order in which they reach it."""
        numbers = self.micro_batches_of(range(step, step + 1))
        return [number for number in numbers if self.worker_of(number) == worker]

    def _segment_start(self, step: int) -> int:
        return step - (step - self.first_step) % self.segment_steps
