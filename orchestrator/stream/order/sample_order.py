"""The order of samples: a pure function (samples, seed, epoch, position) -> sample.

Samples are numbered across all shards. The numbers are divided into chunks of consecutive ones, the chunks are
permuted, and the resulting sequence is shuffled inside windows. Positions continue across epochs: position p is number
`p mod samples` of epoch `p div samples`, so every sample comes exactly once per epoch at any batch size.

Below `Order`: the keyed permutations, which materialise nothing of the size of the data set, and `MicroBatchLayout`,
which assigns the order's positions to micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from workloads.contract import KeyedRandom

Ids = NDArray[np.int64]

ROUNDS = 6
"""Feistel rounds. Four already mix well; two more cost little and help when the domain is tiny."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order in which a run consumes samples.

    Args:
        samples: samples in one epoch.
        seed: the run's seed.
        chunk: consecutive samples that stay together until the windows are shuffled.
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
        """Return the global positions of sample numbers in an epoch, int64[n] -> int64[n]."""
        offsets = _chunk_offsets(self, epoch, np.asarray(numbers, dtype=np.int64))
        return epoch * self.samples + self._in_windows(epoch, offsets, inverse=True)

    def _in_epoch(self, epoch: int, positions: Ids) -> Ids:
        return _chunk_order(self, epoch, self._in_windows(epoch, positions, inverse=False))

    def _in_windows(self, epoch: int, offsets: Ids, inverse: bool) -> Ids:
        result = np.empty_like(offsets)
        first = -epoch * self.samples % self.align
        windows = (offsets - first) // self.window
        for window in np.unique(windows):
            start = max(0, first + int(window) * self.window)
            stop = min(self.samples, first + (int(window) + 1) * self.window)
            here = windows == window
            order = _window_order(self.seed, epoch, int(window), stop - start)
            result[here] = start + (_inverse(order) if inverse else order)[offsets[here] - start]
        return result


def _chunk_order(order: Order, epoch: int, offsets: Ids) -> Ids:
    """Return the sample at each offset in the permuted chunks; the last chunk may be short, whatever its slot."""
    permutation, short_slot, missing = _chunks(order, epoch)
    after_short = offsets >= (short_slot + 1) * order.chunk - missing
    slots, inside = np.divmod(np.where(after_short, offsets + missing, offsets), order.chunk)
    return permutation(slots) * order.chunk + inside


def _chunk_offsets(order: Order, epoch: int, numbers: Ids) -> Ids:
    """Return the offset of each sample in the permuted chunks: the inverse of `_chunk_order`."""
    permutation, short_slot, missing = _chunks(order, epoch)
    chunks, inside = np.divmod(numbers, order.chunk)
    slots = permutation.inverse(chunks)
    return slots * order.chunk + inside - np.where(slots > short_slot, missing, 0)


def _chunks(order: Order, epoch: int) -> tuple[Permutation, int, int]:
    """Return the permutation of an epoch's chunks, and the last chunk's slot and number of missing samples."""
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


class Permutation:
    """A keyed bijection of range(size), by a Feistel network with cycle walking.

    The domain is the smallest even power of two that holds `size`; an image outside `size` is permuted again
    until it falls inside, which takes fewer than four tries on average.

    Args:
        size: number of elements.
        draw: the key.
    """

    def __init__(self, size: int, draw: KeyedRandom) -> None:
        self.size = size
        self._half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self._round_keys = draw.numpy().bit_generator.random_raw(ROUNDS)

    def __call__(self, ids: Ids) -> Ids:
        """Return the images of `ids`, int64[n] in [0, size)."""
        return self._walk(ids, [int(key) for key in self._round_keys], inverse=False)

    def inverse(self, ids: Ids) -> Ids:
        """Return the elements whose images are `ids`, int64[n] in [0, size)."""
        return self._walk(ids, [int(key) for key in self._round_keys[::-1]], inverse=True)

    def _walk(self, ids: Ids, round_keys: list[int], inverse: bool) -> Ids:
        images = self._feistel(np.asarray(ids, dtype=np.uint64), round_keys, inverse)
        while (outside := images >= self.size).any():
            images[outside] = self._feistel(images[outside], round_keys, inverse)
        return images.astype(np.int64)

    def _feistel(self, values: NDArray[np.uint64], round_keys: list[int], inverse: bool) -> NDArray[np.uint64]:
        bits = np.uint64(self._half_bits)
        mask = np.uint64((1 << self._half_bits) - 1)
        left, right = values >> bits, values & mask
        for key in round_keys:
            if inverse:
                left, right = right ^ (_mix(left ^ np.uint64(key)) & mask), left
            else:
                left, right = right, left ^ (_mix(right ^ np.uint64(key)) & mask)
        return cast("NDArray[np.uint64]", (left << bits) | right)


def shuffled(size: int, draw: KeyedRandom) -> Ids:
    """Return a keyed permutation of range(size) as an array, int64[size].

    Sorts raw generator output, whose stream NumPy keeps stable between versions.
    """
    return np.argsort(draw.numpy().bit_generator.random_raw(size), kind="stable").astype(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit values (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class MicroBatchLayout:
    """Which positions of the order the micro-batches of a step take: a bijection of every epoch's positions.

    In plain order, the positions of a window would be spread over all workers, and every worker would fetch a few
    samples of every chunk. So the m-th micro-batches of all steps form a lane with windows of its own: consecutive
    positions feed one lane for as many steps as they last, and the worker that runs the lane reads whole chunks.

    Args:
        epoch: samples in one epoch.
        micro_batches: micro-batches per step, and so lanes.
        micro_batch_size: samples per micro-batch.
        window: positions that are shuffled among themselves.
    """

    epoch: int
    micro_batches: int
    micro_batch_size: int
    window: int

    @property
    def lane_window_steps(self) -> int:
        """Steps for which a lane window lasts."""
        return max(1, self.window // self.micro_batch_size)

    @property
    def lane_window(self) -> int:
        """Consecutive positions that feed one lane: the window, in whole micro-batches."""
        return self.lane_window_steps * self.micro_batch_size

    @property
    def block(self) -> int:
        """Samples in one window of every lane; blocks begin at multiples of this in the whole run."""
        return self.micro_batches * self.lane_window

    def permute(self, positions: Ids) -> Ids:
        """Return the order's position for each global position, int64[n] -> int64[n], in the same epoch.

        Positions before the first whole block of an epoch and after its last are unchanged.
        """
        positions = np.asarray(positions, dtype=np.int64)
        start = positions // self.epoch * self.epoch
        block_start = positions // self.block * self.block
        steps, in_step = np.divmod(positions - block_start, self.micro_batches * self.micro_batch_size)
        lanes, in_micro_batch = np.divmod(in_step, self.micro_batch_size)
        whole = (block_start >= start) & (block_start + self.block <= start + self.epoch)
        permuted = block_start + lanes * self.lane_window + steps * self.micro_batch_size + in_micro_batch
        return np.where(whole, permuted, positions)
