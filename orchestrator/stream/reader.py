"""From micro-batch numbers to samples as stored. Runs on any machine that reaches the storage."""

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
"""A sample of the stream: which data set it is from, in which of that data set's epochs, and its number there."""


@dataclass(frozen=True, slots=True)
class StreamSource:
    """One data set of a run.

    Args:
        folder: where it is.
        index_digest: digest of the index that the run was planned with.
        order: in which its samples are used, epoch after epoch.
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
        mixture: whose turn it is at every position.
        layout: which places of the order the micro-batches of a step take.
        total_samples: samples in the whole run; the last micro-batches may be short or empty.
    """

    sources: tuple[StreamSource, ...]
    mixture: Mixture
    layout: MicroBatchLayout
    total_samples: int

    def read(self, numbers: Sequence[int]) -> list[RawBatch]:
        """Read some micro-batches; their samples are read together.

        Raises:
            StorageError: the store is failing.
            DataSetError: a data set is no longer the one the run was planned with.
        """
        ranges = [self._positions(number) for number in numbers]
        found: dict[int, RawSample] = {}
        for number, source in enumerate(self.sources):
            for sample in _read_places(number, source, *self._places(np.concatenate(ranges), number)):
                found[sample.position] = sample
        return [
            RawBatch(number, tuple(found[position] for position in positions.tolist()))
            for number, positions in zip(numbers, ranges, strict=True)
        ]

    def keys(self, number: int) -> list[str]:
        """Return the keys of a micro-batch's samples in order, without reading the samples."""
        return self.keys_of(self.sample_ids(number))

    def keys_of(self, sample_ids: Sequence[SampleId]) -> list[str]:
        """Return the keys of samples, in the order asked for."""
        keys = [""] * len(sample_ids)
        of_source = np.array([source for source, _, _ in sample_ids], dtype=np.int64)
        samples = np.array([sample for _, _, sample in sample_ids], dtype=np.int64)
        for source_number in np.unique(of_source):
            source = self.sources[source_number]
            index, here = source.index(), np.flatnonzero(of_source == source_number)
            for place, shard, row in zip(here, *index.find(samples[here]), strict=True):
                keys[place] = cached_sidecar(source.folder / index.shards[shard]).key(int(row))
        return keys

    def sample_ids(self, number: int) -> list[SampleId]:
        """Return the data set, its epoch, and the sample's number in it, for a micro-batch's samples in order."""
        positions = self._positions(number)
        found: dict[int, SampleId] = {}
        for source_number, source in enumerate(self.sources):
            here, places = self._places(positions, source_number)
            epochs, samples = places // source.order.samples, source.order.sample_at(places)
            rows = zip(here.tolist(), epochs.tolist(), samples.tolist(), strict=True)
            found |= {position: (source_number, epoch, sample) for position, epoch, sample in rows}
        return [found[position] for position in positions.tolist()]

    def _positions(self, number: int) -> Ids:
        size = self.layout.micro_batch_size
        start, stop = number * size, min((number + 1) * size, self.total_samples)
        return np.arange(start, max(start, stop), dtype=np.int64)

    def _places(self, positions: Ids, source: int) -> tuple[Ids, Ids]:
        """Return which of the positions belong to a source, and their places in that source's own order."""
        sources, places = self.mixture.locate(self.layout.place_at(positions))
        return positions[sources == source], places[sources == source]


def _read_places(source_number: int, source: StreamSource, positions: Ids, places: Ids) -> list[RawSample]:
    index = source.index()
    numbers = source.order.sample_at(places)
    shards, rows = index.find(numbers)
    present = np.unique(shards).tolist()
    wanted = [ShardRows(source.folder / index.shards[shard], rows[shards == shard].tolist()) for shard in present]
    contents: dict[int, Content] = {}
    for shard, found in zip(present, read_samples(source.folder, index, wanted), strict=True):
        contents |= zip(np.flatnonzero(shards == shard).tolist(), found, strict=True)
    names = {shard: one.shard.uri for shard, one in zip(present, wanted, strict=True)}
    return [
        RawSample(
            position=int(positions[i]),
            source=source_number,
            epoch=int(places[i]) // source.order.samples,
            number=int(numbers[i]),
            shard=names[int(shards[i])],
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


# The data sets that a run trains on, and what they come to together.


@dataclass(frozen=True, eq=False)
class DataSet:
    """One data set with its weight in the mixture."""

    folder: Location
    index: Index
    weight: float


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The data sets of a run."""

    sets: tuple[DataSet, ...]

    @property
    def total(self) -> int:
        """Samples in one epoch of the run: as many as all data sets have."""
        return sum(one.index.total for one in self.sets)

    @property
    def shards(self) -> int:
        """Shards of all data sets."""
        return sum(len(one.index.shards) for one in self.sets)

    @property
    def places(self) -> str:
        """Where the data sets are, for people."""
        return ", ".join(one.folder.uri for one in self.sets)

    @property
    def digest(self) -> str:
        """Digest of all indices."""
        digests = [one.index.digest for one in self.sets]
        return digests[0] if len(digests) == 1 else hashlib.blake2b(" ".join(digests).encode()).hexdigest()[:32]

    def epochs_of_sets(self, position: int, seed: int) -> list[float]:
        """Return how many epochs each data set of a mixture has behind it at a global position."""
        places = self._mixture(seed).first_places(position)
        return [place / one.index.total for one, place in zip(self.sets, places, strict=True)]

    def reader(
        self, seed: int, chunk: int, window: int, micro_batches: int, micro_batch_size: int, total_samples: int
    ) -> Reader:
        """Return what reads the micro-batches of a run; see `Order`, `MicroBatchLayout` and `Reader` for the arguments."""
        layout = MicroBatchLayout(self.total, micro_batches, micro_batch_size, window)
        align = layout.block if len(self.sets) == 1 else 1
        sources = [
            StreamSource(
                one.folder,
                one.index.digest,
                Order(one.index.total, _source_seed(seed, number), chunk, layout.lane_window, align),
            )
            for number, one in enumerate(self.sets)
        ]
        return Reader(tuple(sources), self._mixture(seed), layout, total_samples)

    def _mixture(self, seed: int) -> Mixture:
        return Mixture.of([one.weight for one in self.sets], seed)


def _source_seed(seed: int, number: int) -> int:
    """Return the seed of a data set's order, so that data sets of equal size have unlike orders."""
    return seed if number == 0 else KeyedRandom((seed, "source", number)).seed()
