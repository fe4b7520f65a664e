"""A micro-batch on its way from the readers to a worker, and the samples that had to be left out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.contract import Features


@dataclass(frozen=True, slots=True)
class Skipped:
    """A sample that was left out: its position in the run's order, where it is stored, and why."""

    position: int
    shard: str
    key: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The usable samples of one micro-batch.

    Args:
        number: number of the micro-batch in the run.
        keys: keys of the samples, in order.
        features: the samples' features stacked along a new first dimension; empty without samples.
        skipped: samples of this micro-batch that could not be used.
        fingerprint: of the keys of all its samples, used and skipped.
    """

    number: int
    keys: tuple[str, ...]
    features: dict[str, NDArray[np.generic]]
    skipped: tuple[Skipped, ...]
    fingerprint: int

    @property
    def samples(self) -> int:
        """Usable samples."""
        return len(self.keys)


def parse_quarantine(content: bytes) -> Iterator[Skipped]:
    """Yield the samples that a run's list of skipped samples names, one JSON object a line."""
    for line in content.decode().splitlines():
        yield Skipped(**json.loads(line))


def fingerprint(keys: Iterable[str]) -> int:
    """Return 48 bits that stand for keys in their order; a float64 holds them exactly."""
    return int.from_bytes(hashlib.blake2b("\n".join(keys).encode(), digest_size=6).digest(), "little")


def stack(features: Sequence[Features]) -> dict[str, NDArray[np.generic]]:
    """Stack the features of several samples: [...] each to [n, ...]."""
    return {name: np.stack([sample[name] for sample in features]) for name in features[0]} if features else {}
