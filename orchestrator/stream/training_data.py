"""The data sets that a run trains on, and what they come to together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from orchestrator.storage.location import Location
from orchestrator.stream.data_set.index import Index
from orchestrator.stream.order.lanes import Lanes
from orchestrator.stream.order.mixture import Mixture
from orchestrator.stream.order.order import Order
from orchestrator.stream.reader import Reader, Source
from workloads.contract import KeyedRandom


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
        """Return what reads the micro-batches of a run; see `Order`, `Lanes` and `Reader` for the arguments."""
        lanes = Lanes(self.total, micro_batches, micro_batch_size, window)
        align = lanes.block if len(self.sets) == 1 else 1
        sources = [
            Source(
                one.folder,
                one.index.digest,
                Order(one.index.total, _source_seed(seed, number), chunk, lanes.stretch, align),
            )
            for number, one in enumerate(self.sets)
        ]
        return Reader(tuple(sources), self._mixture(seed), lanes, total_samples)

    def _mixture(self, seed: int) -> Mixture:
        return Mixture.of([one.weight for one in self.sets], seed)


def _source_seed(seed: int, number: int) -> int:
    """Return the seed of a data set's order, so that data sets of equal size have unlike orders."""
    return seed if number == 0 else KeyedRandom((seed, "source", number)).seed()
