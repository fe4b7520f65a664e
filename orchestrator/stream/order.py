"""The order of samples: a pure function (samples, seed, epoch, position) -> sample.

Samples are numbered through all shards. The numbers are cut into chunks of neighbours, the chunks are permuted,
and the resulting sequence is shuffled inside windows. Positions run on through the epochs: position p is sample
number `p mod samples` of epoch `p div samples`, so every sample comes exactly once per epoch whatever the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from orchestrator.stream.permutation import Ids, Permutation, shuffled
from workloads.contract import KeyedRandom


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which a run consumes samples.

    Args:
        samples: samples in one epoch.
        seed: the run's seed.
        chunk: neighbouring samples that stay together until the windows are shuffled.
        window: positions that are shuffled among themselves.
    """

    samples: int
    seed: int
    chunk: int
    window: int

    def sample_at(self, positions: Ids) -> Ids:
        """Return the sample numbers at global positions, int64[n] -> int64[n]."""
        positions = np.asarray(positions, dtype=np.int64)
        result = np.empty_like(positions)
        epochs = positions // self.samples
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self._in_epoch(int(epoch), positions[here] % self.samples)
        return result

    def _in_epoch(self, epoch: int, positions: Ids) -> Ids:
        return _chunk_order(self, epoch, self._unshuffle_windows(epoch, positions))

    def _unshuffle_windows(self, epoch: int, positions: Ids) -> Ids:
        result = np.empty_like(positions)
        windows = positions // self.window
        for window in np.unique(windows):
            start = int(window) * self.window
            size = min(self.window, self.samples - start)
            here = windows == window
            result[here] = start + _window_order(self.seed, epoch, int(window), size)[positions[here] - start]
        return result


def _chunk_order(order: Order, epoch: int, places: Ids) -> Ids:
    """Return the sample at each place of the permuted chunks; the last chunk may be short, wherever it lands."""
    chunks = -(-order.samples // order.chunk)
    permutation = Permutation(chunks, KeyedRandom((order.seed, "order", epoch)))
    missing = chunks * order.chunk - order.samples
    short_slot = int(permutation.inverse(np.array([chunks - 1]))[0])
    after_short = places >= (short_slot + 1) * order.chunk - missing
    places = np.where(after_short, places + missing, places)
    slots, inside = np.divmod(places, order.chunk)
    return permutation(slots) * order.chunk + inside


@lru_cache(maxsize=8)
def _window_order(seed: int, epoch: int, window: int, size: int) -> Ids:
    return shuffled(size, KeyedRandom((seed, "window", epoch, window)))
