"""One Ray Data execution: the micro-batches of some steps, dealt out to the workers in a fixed order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

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
"""CPUs that a reading task asks for: of two on one CPU, one works while the other is being handed over."""

END_S = 5.0
"""How long a delivery may take to end by itself."""

MAX_BLOCK_BYTES = 8 * 1024**3
"""Above any block we make: Ray Data must not split a block, or the deal would go out of step."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What is read, and how much of it is decoded before it reaches the workers.

    Args:
        reader: reads micro-batches.
        decoder: transforms them.
        decoded_share: share of every worker's micro-batches that the readers decode; the workers decode the rest.
    """

    reader: Reader
    decoder: Decoder
    decoded_share: float

    def decodes(self, place: int) -> bool:
        """Return whether the readers decode the micro-batch at a place of a worker's sequence, spread evenly."""
        return int((place + 1) * self.decoded_share) > int(place * self.decoded_share)


def split_among_workers(read_plan: ReadPlan, partition: WorkerPartition, segment: Segment) -> list[DataIterator]:
    """Start nothing yet; return one iterator per worker over its share of a segment.

    All blocks of a round hold the same number of rows and order is preserved, so Ray Data's splitter hands block b
    to worker b mod W. The worker checks the numbers that reach it against `WorkerPartition`.
    """
    blocks = [
        ReadBlock(
            read_plan, tuple(partition.block(steps, worker)), partition.rows(steps), partition.rows(range(steps.start))
        )
        for steps in segment.rounds
        for worker in range(partition.workers)
    ]
    parts: list[DataIterator] = _dataset(blocks).streaming_split(partition.workers, equal=False)
    return parts


def end(parts: list[DataIterator]) -> None:
    """End what `split_among_workers` returned: its coordinator goes, with its tasks and its blocks; once is enough.

    It is asked to end by itself first, since only then it takes back its wish for machines.
    """
    coordinator = parts[0]._coord_actor  # type: ignore[attr-defined]
    with suppress(RayError):  # it has ended already, or with its machine
        ray.get(coordinator.shutdown_executor.remote(), timeout=END_S)
    ray.kill(coordinator)


def warm_up(read_plan: ReadPlan, number: int) -> None:
    """Read a micro-batch for nothing: Ray Data's own actors start, and readers import and open what they need."""
    everything = replace(read_plan, decoded_share=1.0) if read_plan.decoded_share else read_plan
    _dataset([ReadBlock(everything, (number,), rows=1)] * int(1 / TASK_CPUS)).materialize()


def receive(iterator: DataIterator) -> Iterator[EncodedMicroBatch]:
    """Yield the micro-batches of one worker."""
    blocks: Iterable[Any] = iterator.iter_batches(
        batch_size=None,  # type: ignore[arg-type]
        batch_format="pyarrow",
        prefetch_batches=0,  # would hold back the first blocks; who receives runs ahead of training anyway
    )
    for block in blocks:
        yield from unpack(block)


def _dataset(blocks: list[ReadBlock]) -> ray.data.Dataset:
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

    def __init__(self, blocks: list[ReadBlock]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._blocks = blocks

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """Return the tasks in the order of their blocks; a task carries numbers, never samples."""
        return [ReadTask(block, _metadata(block.rows)) for block in self._blocks]

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: it is not known before reading."""
        return None


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """Reads one block; a class, so that it pickles small.

    Args:
        delivery: what is read, and how much of it is decoded.
        numbers: the micro-batches of the block.
        rows: rows of the block, at least as many; the rest are empty.
        place: of the first one in the worker's sequence of micro-batches.
    """

    read_plan: ReadPlan
    numbers: tuple[int, ...]
    rows: int
    place: int = 0

    def __call__(self) -> Iterable[Block]:
        """Yield the block.

        Raises:
            StorageError: the store is failing.
            DataSetError: a data set is no longer the one that the run was planned with.
        """
        read_plan = self.read_plan
        rows: list[Row] = [
            read_plan.decoder(batch) if read_plan.decodes(place) else batch
            for place, batch in enumerate(read_plan.reader.read(self.numbers), self.place)
        ]
        yield pack(rows + [None] * (self.rows - len(rows)))


def _metadata(rows: int) -> BlockMetadata:
    return BlockMetadata(num_rows=rows, size_bytes=None, input_files=None, exec_stats=None)


# A pause between the turns of Ray Data's scheduling loop.
#
# Ray Data waits until its tasks have something to hand over, but what they have ready and has no room ends that wait at
# once. Where the stream has read as far ahead as the object store allows, the loop would keep a CPU busy with nothing.


PAUSE_S = 0.01
"""A turn deals with all that is ready and starts all that there is room for, so some of them a second are enough."""


class Pacing(ExecutionCallback):
    """Pauses after every turn."""

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Pause."""
        time.sleep(PAUSE_S)


# Micro-batches on their way from the readers to a worker: a table with a row for each.
#
# A row holds a micro-batch as read, as decoded, or nothing. Every feature of the decoded ones has a column of its own,
# whose cells are the arrays' memory: nothing is copied but into Ray's object store, once.
#
#     about       what is known of a decoded micro-batch besides its features, as JSON
#     raw         an encoded `RawBatch`
#     NAME        the feature NAME of a decoded micro-batch: its array's bytes


ABOUT, RAW, FEATURE = "about", "raw", "feature/"
CELL = pa.large_binary()

Row = MicroBatch | RawBatch | None


@dataclass(frozen=True, slots=True)
class EncodedMicroBatch:
    """A micro-batch as it arrived, not yet opened.

    Args:
        about: JSON; None for one that is not decoded yet.
        cells: the features' bytes by name, or the encoded `RawBatch` by the name `raw`.
    """

    about: str | None
    cells: Mapping[str, pa.Buffer]

    def open(self, decoder: Decoder) -> MicroBatch:
        """Return the micro-batch, decoded if that is still to be done; its arrays are its own and writable."""
        if self.about is None:
            return decoder(RawBatch.decode(self.cells[RAW]))
        about = json.loads(self.about)
        features = {
            name: np.frombuffer(self.cells[FEATURE + name], dtype=dtype).reshape(shape).copy()
            for name, (dtype, shape) in about["features"].items()
        }
        skipped = tuple(SkippedSample(**skip) for skip in about["skipped"])
        return MicroBatch(about["number"], tuple(about["keys"]), features, skipped, about["fingerprint"])


def pack(rows: Sequence[Row]) -> pa.Table:
    """Return a block with a row for each micro-batch, and an empty one for each None."""
    decoded = [row if isinstance(row, MicroBatch) else None for row in rows]
    names = sorted({name for row in decoded if row is not None for name in row.features})
    columns = {
        ABOUT: pa.array([row and _about(row) for row in decoded], pa.string()),
        RAW: _column([row.encode() if isinstance(row, RawBatch) else None for row in rows]),
        **{FEATURE + name: _column([row and _memory(row.features.get(name)) for row in decoded]) for name in names},
    }
    return pa.table(columns)


def unpack(block: pa.Table) -> Iterator[EncodedMicroBatch]:
    """Yield the micro-batches of a block in order; they share its memory."""
    names = [name for name in block.column_names if name != ABOUT]
    columns = [_cells(block.column(name)) for name in names]
    for about, *cells in zip(block.column(ABOUT).to_pylist(), *columns, strict=True):
        found = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
        if about is not None or RAW in found:
            yield EncodedMicroBatch(about, found)


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
    """Yield the cells of a column; Arrow's own way to a single cell copies it."""
    for chunk in column.chunks:
        _, ends, content = chunk.buffers()
        for row, valid in enumerate(chunk.is_valid().to_pylist(), chunk.offset):
            start, stop = np.frombuffer(ends, dtype=np.int64, count=2, offset=8 * row) if valid else (0, 0)
            yield content.slice(start, stop - start) if valid else None
