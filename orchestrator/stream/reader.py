"""`Reader` reads the stored samples of any micro-batch from its number alone, on any machine that reaches the storage.

Also `TrainingData`, the data sets of a run, from which its reader is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError, Index, read_index
from orchestrator.stream.dataset.samples import ShardRows, cached_sidecar, read_samples
from orchestrator.stream.dataset.sidecar import Content
from orchestrator.stream.micro_batch import RawBatch, RawSample
from orchestrator.stream.order.mixture import Mixture
from orchestrator.stream.order.sample_order import Ids, MicroBatchLayout, Order
from workloads.contract import KeyedRandom

SampleId = tuple[int, int, int]
"""A sample of the stream: the number of its data set, the epoch of that data set, and its number in the data set."""


@dataclass(frozen=True, slots=True)
class StreamSource:
    """One data set of a run.

    Args:
        folder: its folder of shards.
        index_digest: digest of the index that the run was planned with.
        order: the order of its samples, epoch after epoch.
    """

    folder: Location
    index_digest: str
    order: Order

    def index(self) -> Index:
        """Return the index.

        Raises:
            DataSetError: the data set is no longer the one that the run was planned with.
        """
        return _index(self.folder, self.index_digest)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads any micro-batch of a run from nothing but its number.

    Args:
        sources: the data sets.
        mixture: the data set at every position.
        layout: which positions the micro-batches of a step take.
        total_samples: samples in the whole run; the last micro-batches may be short or empty.
    """

    sources: tuple[StreamSource, ...]
    mixture: Mixture
    layout: MicroBatchLayout
    total_samples: int

    def read(self, numbers: Sequence[int]) -> list[RawBatch]:
        """Read some micro-batches; the samples of all of them are read together.

        Raises:
            StorageError: the store is failing.
            DataSetError: a data set is no longer the one the run was planned with.
        """
        ranges = [self._positions(number) for number in numbers]
        samples: dict[int, RawSample] = {}
        for number, source in enumerate(self.sources):
            for sample in _read_positions(number, source, *self._in_source(np.concatenate(ranges), number)):
                samples[sample.position] = sample
        return [
            RawBatch(number, tuple(samples[position] for position in positions.tolist()))
            for number, positions in zip(numbers, ranges, strict=True)
        ]

    def keys(self, number: int) -> list[str]:
        """Return the keys of a micro-batch's samples in order, without reading the samples."""
        return self.keys_of(self.sample_ids(number))

    def keys_of(self, sample_ids: Sequence[SampleId]) -> list[str]:
        """Return the keys of samples, in the order given."""
        keys = [""] * len(sample_ids)
        of_source = np.array([source for source, _, _ in sample_ids], dtype=np.int64)
        samples = np.array([sample for _, _, sample in sample_ids], dtype=np.int64)
        for source_number in np.unique(of_source):
            source = self.sources[source_number]
            index, here = source.index(), np.flatnonzero(of_source == source_number)
            for i, shard, row in zip(here, *index.find(samples[here]), strict=True):
                keys[i] = cached_sidecar(source.folder / index.shards[shard]).key(int(row))
        return keys

    def sample_ids(self, number: int) -> list[SampleId]:
        """Return the data set, its epoch, and the sample's number in it, for a micro-batch's samples in order."""
        positions = self._positions(number)
        by_position: dict[int, SampleId] = {}
        for source_number, source in enumerate(self.sources):
            here, in_source = self._in_source(positions, source_number)
            epochs, samples = in_source // source.order.samples, source.order.sample_at(in_source)
            rows = zip(here.tolist(), epochs.tolist(), samples.tolist(), strict=True)
            by_position |= {position: (source_number, epoch, sample) for position, epoch, sample in rows}
        return [by_position[position] for position in positions.tolist()]

    def _positions(self, number: int) -> Ids:
        size = self.layout.micro_batch_size
        start, stop = number * size, min((number + 1) * size, self.total_samples)
        return np.arange(start, max(start, stop), dtype=np.int64)

    def _in_source(self, positions: Ids, source: int) -> tuple[Ids, Ids]:
        """Return the positions that belong to a source, and their positions in that source's own order."""
        sources, in_source = self.mixture.locate(self.layout.permute(positions))
        return positions[sources == source], in_source[sources == source]


def _read_positions(source_number: int, source: StreamSource, positions: Ids, in_source: Ids) -> list[RawSample]:
    index = source.index()
    numbers = source.order.sample_at(in_source)
    shards, rows = index.find(numbers)
    present = np.unique(shards).tolist()
    requests = [ShardRows(source.folder / index.shards[shard], rows[shards == shard].tolist()) for shard in present]
    contents: dict[int, Content] = {}
    for shard, of_shard in zip(present, read_samples(source.folder, index, requests), strict=True):
        contents |= zip(np.flatnonzero(shards == shard).tolist(), of_shard, strict=True)
    uris = {shard: request.shard.uri for shard, request in zip(present, requests, strict=True)}
    return [
        RawSample(
            position=int(positions[i]),
            source=source_number,
            epoch=int(in_source[i]) // source.order.samples,
            number=int(numbers[i]),
            shard=uris[int(shards[i])],
            content=contents[i],
        )
        for i in range(len(positions))
    ]


@lru_cache(maxsize=32)
def _index(folder: Location, digest: str) -> Index:
    index = read_index(folder)
    if index.digest != digest:
        raise DataSetError(f"{folder.uri}: the data set changed while the run was using it; start a new run.")
    return index


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set with its weight in the mixture."""

    folder: Location
    index: Index
    weight: float


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The data sets that a run trains on."""

    sets: tuple[DataSet, ...]

    @property
    def total(self) -> int:
        """Samples in one epoch of the run: as many as all data sets have."""
        return sum(data_set.index.total for data_set in self.sets)

    @property
    def shards(self) -> int:
        """Shards of all data sets."""
        return sum(len(data_set.index.shards) for data_set in self.sets)

    @property
    def uris(self) -> str:
        """The URIs of the data sets, for messages."""
        return ", ".join(data_set.folder.uri for data_set in self.sets)

    @property
    def digest(self) -> str:
        """Digest of all indices."""
        digests = [data_set.index.digest for data_set in self.sets]
        return digests[0] if len(digests) == 1 else hashlib.blake2b(" ".join(digests).encode()).hexdigest()[:32]

    def epochs_of_sets(self, position: int, seed: int) -> list[float]:
        """Return how many epochs of each data set precede a global position."""
        used = self._mixture(seed).samples_before(position)
        return [count / data_set.index.total for data_set, count in zip(self.sets, used, strict=True)]

    def reader(
        self, seed: int, chunk: int, window: int, micro_batches: int, micro_batch_size: int, total_samples: int
    ) -> Reader:
        """Return the reader of a run's micro-batches; arguments as in `Order`, `MicroBatchLayout` and `Reader`."""
        layout = MicroBatchLayout(self.total, micro_batches, micro_batch_size, window)
        align = layout.block if len(self.sets) == 1 else 1
        sources = [
            StreamSource(
                data_set.folder,
                data_set.index.digest,
                Order(data_set.index.total, _source_seed(seed, number), chunk, layout.lane_window, align),
            )
            for number, data_set in enumerate(self.sets)
        ]
        return Reader(tuple(sources), self._mixture(seed), layout, total_samples)

    def _mixture(self, seed: int) -> Mixture:
        return Mixture.of([data_set.weight for data_set in self.sets], seed)


def _source_seed(seed: int, number: int) -> int:
    """Return the seed of a data set's order, so that data sets of equal size have different orders."""
    return seed if number == 0 else KeyedRandom((seed, "source", number)).seed()
