"""The order of samples: a pure function (samples, seed, epoch, position) -> sample.

Samples are numbered through all shards. The numbers are cut into chunks of neighbours, the chunks are permuted,
and the resulting sequence is shuffled inside windows. Positions run on through the epochs: position p is sample
number `p mod samples` of epoch `p div samples`, so every sample comes exactly once per epoch whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from orchestrator.stream.order.permutation import Ids, Permutation, shuffled
from workloads.contract import KeyedRandom


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which a run consumes samples.

    Args:
        samples: samples in one epoch.
        seed: the run's seed.
        chunk: neighbouring samples that stay together until the windows are shuffled.
        window: positions that are shuffled among themselves.
        align: windows begin at global positions that are multiples of this, and at the start of an epoch.
    """

    samples: int
    seed: int
    chunk: int
    window: int
    align: int = 1

    def sample_at(self, positions: Ids) -> Ids:
        """Return the sample numbers at global positions, int64[n] -> int64[n]."""
        positions = np.asarray(positions, dtype=np.int64)
        result = np.empty_like(positions)
        epochs = positions // self.samples
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self._in_epoch(int(epoch), positions[here] % self.samples)
        return result

    def position_of(self, numbers: Ids, epoch: int) -> Ids:
        """Return the global positions at which an epoch has some sample numbers, int64[n] -> int64[n]."""
        places = _chunk_places(self, epoch, np.asarray(numbers, dtype=np.int64))
        return epoch * self.samples + self._in_windows(epoch, places, inverse=True)

    def _in_epoch(self, epoch: int, positions: Ids) -> Ids:
        return _chunk_order(self, epoch, self._in_windows(epoch, positions, inverse=False))

    def _in_windows(self, epoch: int, places: Ids, inverse: bool) -> Ids:
        result = np.empty_like(places)
        first = -epoch * self.samples % self.align
        windows = (places - first) // self.window
        for window in np.unique(windows):
            start = max(0, first + int(window) * self.window)
            stop = min(self.samples, first + (int(window) + 1) * self.window)
            here = windows == window
            order = _window_order(self.seed, epoch, int(window), stop - start)
            result[here] = start + (_inverse(order) if inverse else order)[places[here] - start]
        return result


def _chunk_order(order: Order, epoch: int, places: Ids) -> Ids:
    """Return the sample at each place of the permuted chunks; the last chunk may be short, wherever it lands."""
    permutation, short_slot, missing = _chunks(order, epoch)
    after_short = places >= (short_slot + 1) * order.chunk - missing
    slots, inside = np.divmod(np.where(after_short, places + missing, places), order.chunk)
    return permutation(slots) * order.chunk + inside


def _chunk_places(order: Order, epoch: int, numbers: Ids) -> Ids:
    """Return the place of each sample among the permuted chunks: the inverse of `_chunk_order`."""
    permutation, short_slot, missing = _chunks(order, epoch)
    chunks, inside = np.divmod(numbers, order.chunk)
    slots = permutation.inverse(chunks)
    return slots * order.chunk + inside - np.where(slots > short_slot, missing, 0)


def _chunks(order: Order, epoch: int) -> tuple[Permutation, int, int]:
    """Return the permutation of an epoch's chunks, the slot of the last chunk, and how many samples that one lacks."""
    chunks = -(-order.samples // order.chunk)
    permutation = Permutation(chunks, KeyedRandom((order.seed, "order", epoch)))
    short_slot = int(permutation.inverse(np.array([chunks - 1]))[0])
    return permutation, short_slot, chunks * order.chunk - order.samples


def _inverse(permutation: Ids) -> Ids:
    result = np.empty_like(permutation)
    result[permutation] = np.arange(permutation.size)
    return result


@lru_cache(maxsize=256)
def _window_order(seed: int, epoch: int, window: int, size: int) -> Ids:
    return shuffled(size, KeyedRandom((seed, "window", epoch, window)))
