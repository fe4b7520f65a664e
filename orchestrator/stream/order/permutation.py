"""Permutations as pure functions of a key: nothing of the size of the data set is materialised."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from workloads.contract import KeyedRandom

Ids = NDArray[np.int64]

ROUNDS = 6
"""Feistel rounds. Four already mix well; two more cost little and help when the domain is tiny."""


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
