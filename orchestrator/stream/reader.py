"""From micro-batch numbers to micro-batches: order, read, transform. Runs on any CPU worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from orchestrator.storage.location import Location
from orchestrator.stream.index import DataSetError, Index, read_index
from orchestrator.stream.micro_batch import MicroBatch, Skipped, stack
from orchestrator.stream.order import Order
from orchestrator.stream.permutation import Ids
from orchestrator.stream.shards import Unreadable, open_shard
from workloads.contract import BadSample, Features, KeyedRandom, Sample, Transform


@dataclass(frozen=True, slots=True)
class Reader:
    """Makes any micro-batch of a run from nothing but its number.

    Args:
        folder: the data set.
        index_digest: digest of the index that the run was planned with.
        order: the run's order.
        micro_batch_size: samples per micro-batch.
        total_samples: samples in the whole run; the last micro-batches may be short or empty.
        transform: the workload's transform.
    """

    folder: Location
    index_digest: str
    order: Order
    micro_batch_size: int
    total_samples: int
    transform: Transform

    def read(self, numbers: Sequence[int]) -> list[MicroBatch]:
        """Read, decode and transform some micro-batches; their samples are read together.

        Raises:
            StorageError: the store is failing.
            DataSetError: the data set is no longer the one the run was planned with.
        """
        ranges = [self._positions(number) for number in numbers]
        positions = np.concatenate(ranges)
        found = iter(self._read_samples(positions))
        return [
            self._micro_batch(number, places, [next(found) for _ in places])
            for number, places in zip(numbers, ranges, strict=True)
        ]

    def _positions(self, number: int) -> Ids:
        start = number * self.micro_batch_size
        stop = min(start + self.micro_batch_size, self.total_samples)
        return np.arange(start, max(start, stop), dtype=np.int64)

    def _read_samples(self, positions: Ids) -> list[_Found]:
        numbers = self.order.sample_at(positions)
        index = _index(self.folder, self.index_digest)
        shards, rows = index.find(numbers)
        found: dict[int, _Found] = {}
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            name = index.shards[shard]
            contents = open_shard(self.folder / name, index.format).read(rows[here].tolist())
            for place, content in zip(here.tolist(), contents, strict=True):
                found[place] = _Found(int(numbers[place]), name, content)
        return [found[place] for place in range(len(positions))]

    def _micro_batch(self, number: int, positions: Ids, found: Sequence[_Found]) -> MicroBatch:
        keys: list[str] = []
        features: list[Features] = []
        skipped: list[Skipped] = []
        for position, one in zip(positions.tolist(), found, strict=True):
            try:
                features.append(self._features(position, one))
                keys.append(one.content.key)
            except BadSample as fault:
                skipped.append(Skipped(position, one.shard, one.content.key, fault.reason, fault.detail))
        return MicroBatch(number, tuple(keys), stack(features), tuple(skipped))

    def _features(self, position: int, found: _Found) -> Features:
        if isinstance(found.content, Unreadable):
            raise found.content.fault
        epoch = position // self.order.samples
        return self.transform(found.content, KeyedRandom((self.order.seed, "transform", epoch, found.number)))


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies at one position: the sample's number, its shard, and its content."""

    number: int
    shard: str
    content: Sample | Unreadable


@lru_cache(maxsize=4)
def _index(folder: Location, digest: str) -> Index:
    index = read_index(folder)
    if index.digest != digest:
        raise DataSetError(f"{folder.uri}: the data set changed while the run was using it; start a new run.")
    return index
