"""Which places of the order the micro-batches of a step take: a bijection of every epoch's positions.

Taken as they come, the places of a window would be spread over all workers, and every worker would fetch a few samples
out of every chunk. So each micro-batch of a step is a lane with windows of its own: a stretch of neighbouring places
feeds one lane for as many steps as it lasts, and whoever runs that lane reads its chunks whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrator.stream.order.permutation import Ids


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of a run.

    Args:
        epoch: samples in one epoch.
        micro_batches: lanes: micro-batches per step.
        micro_batch_size: samples per micro-batch.
        window: places that are shuffled among themselves.
    """

    epoch: int
    micro_batches: int
    micro_batch_size: int
    window: int

    @property
    def stretch_steps(self) -> int:
        """Steps for which a stretch lasts."""
        return max(1, self.window // self.micro_batch_size)

    @property
    def stretch(self) -> int:
        """Neighbouring places that feed one lane: the window, in whole micro-batches."""
        return self.stretch_steps * self.micro_batch_size

    @property
    def block(self) -> int:
        """Samples in a stretch of every lane; blocks begin at multiples of this, counted through the whole run."""
        return self.micro_batches * self.stretch

    def place_at(self, positions: Ids) -> Ids:
        """Return the place of each global position, int64[n] -> int64[n], in the same epoch.

        What an epoch has before its first whole block and after its last stays where it is.
        """
        positions = np.asarray(positions, dtype=np.int64)
        start = positions // self.epoch * self.epoch
        block_start = positions // self.block * self.block
        steps, in_step = np.divmod(positions - block_start, self.micro_batches * self.micro_batch_size)
        lanes, in_micro_batch = np.divmod(in_step, self.micro_batch_size)
        whole = (block_start >= start) & (block_start + self.block <= start + self.epoch)
        places = block_start + lanes * self.stretch + steps * self.micro_batch_size + in_micro_batch
        return np.where(whole, places, positions)
