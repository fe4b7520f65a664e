"""One Ray Data execution: the micro-batches of a range of steps, dealt out to the workers in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import DataIterator
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.reader import Reader
from orchestrator.stream.sharing import Sharing

MAX_BLOCK_BYTES = 8 * 1024**3
"""Above any block we make: Ray Data must not split a block, or the deal would go out of step."""


def deal(reader: Reader, sharing: Sharing, steps: range) -> list[DataIterator]:
    """Start nothing yet; return one iterator per worker over its share of some steps.

    Every block holds the same number of rows (micro-batches) and order is preserved, so Ray Data's splitter
    hands block b to worker b mod W. The worker checks the numbers that reach it against `Sharing`.
    """
    numbers = sharing.micro_batches_of(steps)
    blocks = [numbers[start : start + sharing.block] for start in range(0, len(numbers), sharing.block)]
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = MAX_BLOCK_BYTES
    context.enable_progress_bars = False
    dataset = ray.data.read_datasource(_MicroBatches(reader, blocks), override_num_blocks=len(blocks))
    parts: list[DataIterator] = dataset.streaming_split(sharing.workers, equal=False)
    return parts


def receive(iterator: DataIterator, ahead: int) -> Iterator[MicroBatch]:
    """Yield the micro-batches of one worker.

    Args:
        iterator: the worker's part of a deal.
        ahead: blocks fetched before they are asked for.
    """
    blocks: Iterable[Any] = iterator.iter_batches(
        batch_size=None,  # type: ignore[arg-type]
        batch_format="pyarrow",
        prefetch_batches=ahead,
    )
    for block in blocks:
        for content in block.column("micro_batch"):
            yield MicroBatch.decode(content.as_buffer().to_pybytes())


class _MicroBatches(Datasource):
    """One read task per block of micro-batches."""

    def __init__(self, reader: Reader, blocks: list[range]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reader = reader
        self._blocks = blocks

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """Return the tasks in the order of their blocks; a task carries numbers, never samples."""
        return [ReadTask(_Read(self._reader, block), _metadata(block)) for block in self._blocks]

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: it is not known before reading."""
        return None


class _Read:
    """Reads one block; a class, so that it pickles small."""

    def __init__(self, reader: Reader, numbers: range) -> None:
        self._reader = reader
        self._numbers = numbers

    def __call__(self) -> Iterable[Block]:
        contents = [batch.encode() for batch in self._reader.read(self._numbers)]
        yield pa.table({"micro_batch": pa.array(contents, pa.large_binary())})


def _metadata(block: range) -> BlockMetadata:
    return BlockMetadata(num_rows=len(block), size_bytes=None, input_files=None, exec_stats=None)
