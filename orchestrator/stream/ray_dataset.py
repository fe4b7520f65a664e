"""One Ray Data execution: the micro-batches of a segment, split among the workers in a fixed order.

A block is a table with a row per micro-batch: as read, as decoded, or empty. Every feature of the decoded ones has a
column, whose cells are the arrays' memory: nothing is copied except into Ray's object store, once.

    about           metadata of a decoded micro-batch, as JSON
    raw             an encoded `RawBatch`
    feature/NAME    the bytes of the feature NAME of a decoded micro-batch
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import DataIterator
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError

from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import MicroBatch, RawBatch, SkippedSample
from orchestrator.stream.order.partition import Segment, WorkerPartition
from orchestrator.stream.reader import Reader

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

TASK_CPUS = 0.5
"""CPUs that a read task reserves: of two on one CPU, one works while the output of the other is handed over."""

SHUTDOWN_S = 5.0
"""Seconds that an execution may take to shut down by itself."""

MAX_BLOCK_BYTES = 8 * 1024**3
"""Above any block we make: Ray Data must not split a block, or blocks would reach the wrong workers."""

PAUSE_S = 0.01
"""One iteration handles all outputs that are ready and starts all tasks that fit, so 100 a second are enough."""

ABOUT, RAW, FEATURE = "about", "raw", "feature/"

CELL = pa.large_binary()

Row = MicroBatch | RawBatch | None


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What the readers read, and how much of it they decode.

    Args:
        reader: reads micro-batches.
        decoder: transforms them.
        decoded_share: share of every worker's micro-batches that the readers decode; the workers decode the rest.
    """

    reader: Reader
    decoder: Decoder
    decoded_share: float

    def decodes(self, offset: int) -> bool:
        """Return whether the readers decode a worker's micro-batch at an offset; these are spread evenly."""
        return int((offset + 1) * self.decoded_share) > int(offset * self.decoded_share)


def split_among_workers(read_plan: ReadPlan, partition: WorkerPartition, segment: Segment) -> list[DataIterator]:
    """Return one iterator per worker over its micro-batches of a segment; the execution starts when they are read.

    All blocks of a round have the same number of rows and their order is preserved, so Ray Data's splitter gives block
    b to worker b mod W. The workers check the numbers that they receive against `WorkerPartition`.
    """
    blocks = [
        ReadBlock(
            read_plan,
            tuple(partition.block_micro_batches(steps, worker)),
            partition.block_rows(steps),
            partition.block_rows(range(steps.start)),
        )
        for steps in segment.rounds
        for worker in range(partition.workers)
    ]
    parts: list[DataIterator] = dataset_of(blocks).streaming_split(partition.workers, equal=False)
    return parts


def shutdown(parts: list[DataIterator]) -> None:
    """Shut down the coordinator actor of these iterators, which frees its tasks and blocks. Idempotent.

    It is first asked to shut down by itself, since only then it withdraws its request to the autoscaler.
    """
    coordinator = parts[0]._coord_actor  # type: ignore[attr-defined]
    with suppress(RayError):  # it ended before, or its node failed
        ray.get(coordinator.shutdown_executor.remote(), timeout=SHUTDOWN_S)
    ray.kill(coordinator)


def warm_up(read_plan: ReadPlan, number: int) -> None:
    """Read a micro-batch and drop it, so that Ray Data's actors start, and readers import modules and open files."""
    everything = replace(read_plan, decoded_share=1.0) if read_plan.decoded_share else read_plan
    dataset_of([ReadBlock(everything, (number,), rows=1)] * int(1 / TASK_CPUS)).materialize()


def receive(iterator: DataIterator) -> Iterator[EncodedMicroBatch]:
    """Yield the micro-batches of one worker, not yet decoded where the readers did not."""
    blocks: Iterable[Any] = iterator.iter_batches(
        batch_size=None,  # type: ignore[arg-type]
        batch_format="pyarrow",
        prefetch_batches=0,  # would delay the first blocks; the loader prefetches anyway
    )
    for block in blocks:
        yield from unpack_block(block)


class BlockSource(Protocol):
    """Reads one block, in a task of Ray Data."""

    @property
    def rows(self) -> int:
        """Rows of the block."""
        ...

    def __call__(self) -> Iterable[Block]:
        """Yield the block."""
        ...


def dataset_of(blocks: Sequence[BlockSource]) -> ray.data.Dataset:
    """Return the data set of some blocks, which are read as they are needed and keep their order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.target_max_block_size = MAX_BLOCK_BYTES
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [Pacing]
    dataset: ray.data.Dataset = ray.data.read_datasource(
        _MicroBatches(blocks), override_num_blocks=len(blocks), ray_remote_args={"num_cpus": TASK_CPUS}
    )
    return dataset


class _MicroBatches(Datasource):
    """One read task per block of micro-batches."""

    def __init__(self, blocks: Sequence[BlockSource]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._blocks = blocks

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """Return a task per block, in their order; a task carries numbers, never samples."""
        return [ReadTask(block, _metadata(block.rows)) for block in self._blocks]

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: unknown before reading."""
        return None


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """Reads one block; a class, so that it pickles small.

    Args:
        read_plan: what is read, and how much of it is decoded.
        numbers: the micro-batches of the block.
        rows: rows of the block, at least as many as micro-batches; the others are empty.
        offset: of the first micro-batch in the worker's sequence.
    """

    read_plan: ReadPlan
    numbers: tuple[int, ...]
    rows: int
    offset: int = 0

    def __call__(self) -> Iterable[Block]:
        """Yield the block.

        Raises:
            StorageError: the store is failing.
            DataSetError: a data set is no longer the one that the run was planned with.
        """
        read_plan = self.read_plan
        rows: list[Row] = [
            read_plan.decoder(batch) if read_plan.decodes(offset) else batch
            for offset, batch in enumerate(read_plan.reader.read(self.numbers), self.offset)
        ]
        yield pack_block(rows + [None] * (self.rows - len(rows)))


def _metadata(rows: int) -> BlockMetadata:
    return BlockMetadata(num_rows=rows, size_bytes=None, input_files=None, exec_stats=None)


class Pacing(ExecutionCallback):
    """Pauses after every iteration of Ray Data's scheduling loop.

    The loop waits until a task has output, but output for which there is no room ends that wait at once. When the
    stream has read as far ahead as the object store allows, the loop would keep a CPU busy without doing anything.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Pause."""
        time.sleep(PAUSE_S)


@dataclass(frozen=True, slots=True)
class EncodedMicroBatch:
    """One row of a block, as a worker receives it.

    Args:
        about: metadata as JSON; None when the readers did not decode it.
        cells: the features' bytes by column, or the encoded `RawBatch` under `raw`.
    """

    about: str | None
    cells: Mapping[str, pa.Buffer]

    def open(self, decoder: Decoder) -> MicroBatch:
        """Return the micro-batch, decoded if the readers did not; its arrays are copies and writable."""
        if self.about is None:
            return decoder(RawBatch.decode(self.cells[RAW]))
        about = json.loads(self.about)
        features = {
            name: np.frombuffer(self.cells[FEATURE + name], dtype=dtype).reshape(shape).copy()
            for name, (dtype, shape) in about["features"].items()
        }
        skipped = tuple(SkippedSample(**skip) for skip in about["skipped"])
        return MicroBatch(about["number"], tuple(about["keys"]), features, skipped, about["fingerprint"])


def pack_block(rows: Sequence[Row]) -> pa.Table:
    """Return a block with a row for each micro-batch, and an empty one for each None."""
    decoded = [row if isinstance(row, MicroBatch) else None for row in rows]
    names = sorted({name for row in decoded if row is not None for name in row.features})
    columns = {
        ABOUT: pa.array([row and _about(row) for row in decoded], pa.string()),
        RAW: _column([row.encode() if isinstance(row, RawBatch) else None for row in rows]),
        **{FEATURE + name: _column([row and _memory(row.features.get(name)) for row in decoded]) for name in names},
    }
    return pa.table(columns)


def unpack_block(block: pa.Table) -> Iterator[EncodedMicroBatch]:
    """Yield the micro-batches of a block in order; they share its memory."""
    names = [name for name in block.column_names if name != ABOUT]
    columns = [_cells(block.column(name)) for name in names]
    for about, *cells in zip(block.column(ABOUT).to_pylist(), *columns, strict=True):
        present = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
        if about is not None or RAW in present:
            yield EncodedMicroBatch(about, present)


def _about(batch: MicroBatch) -> str:
    about: dict[str, Any] = {
        "number": batch.number,
        "keys": batch.keys,
        "skipped": [asdict(skip) for skip in batch.skipped],
        "fingerprint": batch.fingerprint,
        "features": {name: (array.dtype.str, array.shape) for name, array in batch.features.items()},
    }
    return json.dumps(about)


def _memory(array: NDArray[np.generic] | None) -> pa.Buffer | None:
    return None if array is None else pa.py_buffer(np.ascontiguousarray(array))


def _column(cells: Sequence[pa.Buffer | None]) -> pa.ChunkedArray:
    """Return a column with a chunk for each cell, around the cells' own memory."""
    return pa.chunked_array([_cell(cell) for cell in cells], CELL)


def _cell(content: pa.Buffer | None) -> pa.LargeBinaryArray:
    if content is None:
        return pa.nulls(1, CELL)
    ends = pa.py_buffer(np.array([0, content.size], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(CELL, 1, [None, ends, content])


def _cells(column: pa.ChunkedArray) -> Iterator[pa.Buffer | None]:
    """Yield the cells of a column without copying them, as Arrow's own access to a single cell would."""
    for chunk in column.chunks:
        _, ends, content = chunk.buffers()
        for row, valid in enumerate(chunk.is_valid().to_pylist(), chunk.offset):
            start, stop = np.frombuffer(ends, dtype=np.int64, count=2, offset=8 * row) if valid else (0, 0)
            yield content.slice(start, stop - start) if valid else None
