"""Readers over toy shards."""

from __future__ import annotations

from collections.abc import Sequence

from toy_workload import ToyTransform

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.reader import DataSet, Reader, TrainingData

SEED = 5


def make_reader(*folders: str, size: int = 8, micro_batches: int = 1, total: int | None = None) -> Reader:
    """Return a reader over a mixture of data sets with equal weights, for one epoch unless told."""
    places = [locate(folder) for folder in folders]
    data = TrainingData(tuple(DataSet(place, read_index(place), 1.0) for place in places))
    return data.reader(
        SEED,
        chunk=8,
        window=32,
        micro_batches=micro_batches,
        micro_batch_size=size,
        total_samples=data.total if total is None else total,
    )


def read_batches(reader: Reader, numbers: Sequence[int]) -> list[MicroBatch]:
    """Return micro-batches, read together and decoded."""
    return [Decoder(ToyTransform(), SEED)(raw) for raw in reader.read(numbers)]
