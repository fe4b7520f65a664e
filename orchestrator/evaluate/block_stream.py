"""Held-out blocks as Ray Data reads them: tasks on all nodes, ahead of the actors as far as the object store allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from ray.data.block import Block as RayBlock

from orchestrator.evaluate.held_out import HeldOutSamples, StoredBlock, sort_out
from orchestrator.stream.dataset.samples import read_numbered
from orchestrator.stream.micro_batch import RawBatch, RawSample
from orchestrator.stream.ray_dataset import RAW, dataset_of, pack_block, unpack_block


@dataclass(frozen=True, slots=True)
class ReadHeldOut:
    """Reads one block; a class, so that it pickles small.

    Args:
        held_out: the samples.
        number: of the block.
    """

    held_out: HeldOutSamples
    number: int

    @property
    def rows(self) -> int:
        """The block is one row of Ray Data's."""
        return 1

    def __call__(self) -> Iterable[RayBlock]:
        """Yield the block.

        Raises:
            StorageError: the store is failing.
            DataSetError: a sidecar is damaged.
        """
        held_out, first = self.held_out, self.number * self.held_out.block_size
        numbers = held_out.numbers[first : first + held_out.block_size]
        samples = tuple(
            RawSample(row, 0, 0, int(number), located.shard, located.content)
            for row, (number, located) in enumerate(
                zip(numbers, read_numbered(held_out.folder, held_out.index, numbers), strict=True), first
            )
        )
        yield pack_block([RawBatch(self.number, samples)])


def stream_blocks(held_out: HeldOutSamples, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield the numbers of blocks with references to them in Ray's object store, in the order given."""
    bundles = dataset_of([ReadHeldOut(held_out, number) for number in numbers]).iter_internal_ref_bundles()
    references = (entry.ref for bundle in bundles for entry in bundle.blocks)
    yield from zip(numbers, references, strict=True)


def open_block(table: pa.Table, number: int) -> StoredBlock:
    """Return a block that came through Ray Data.

    Args:
        table: what `ReadHeldOut` yielded.
        number: of the block that is expected.

    Raises:
        ValueError: it is another block.
    """
    (row,) = unpack_block(table)
    batch = RawBatch.decode(row.cells[RAW])
    if batch.number != number:
        raise ValueError(f"held-out block {number} was expected, but block {batch.number} came")
    return sort_out(number, batch.samples[0].position, iter([sample.content for sample in batch.samples]))
