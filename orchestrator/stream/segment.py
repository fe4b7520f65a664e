"""One Ray Data execution: the micro-batches of some steps, dealt out to the workers in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray.data
from ray.data import DataIterator
from ray.data.block import Block, BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError

from orchestrator.stream.block import Parcel, Row, pack, unpack
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.order.sharing import Segment, Sharing
from orchestrator.stream.pacing import Pacing
from orchestrator.stream.reader import Reader

TASK_CPUS = 0.5
"""CPUs that a reading task asks for: of two on one CPU, one works while the other is being handed over."""

END_S = 5.0
"""How long a delivery may take to end by itself."""

MAX_BLOCK_BYTES = 8 * 1024**3
"""Above any block we make: Ray Data must not split a block, or the deal would go out of step."""


@dataclass(frozen=True, slots=True)
class Delivery:
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


def deal(delivery: Delivery, sharing: Sharing, segment: Segment) -> list[DataIterator]:
    """Start nothing yet; return one iterator per worker over its share of a segment.

    All blocks of a round hold the same number of rows and order is preserved, so Ray Data's splitter hands block b
    to worker b mod W. The worker checks the numbers that reach it against `Sharing`.
    """
    blocks = [
        ReadBlock(delivery, tuple(sharing.block(steps, worker)), sharing.rows(steps), sharing.rows(range(steps.start)))
        for steps in segment.rounds
        for worker in range(sharing.workers)
    ]
    parts: list[DataIterator] = _dataset(blocks).streaming_split(sharing.workers, equal=False)
    return parts


def end(parts: list[DataIterator]) -> None:
    """End what `deal` returned: its coordinator goes, with its tasks and its blocks; once is enough.

    It is asked to end by itself first, since only then it takes back its wish for machines.
    """
    coordinator = parts[0]._coord_actor  # type: ignore[attr-defined]
    with suppress(RayError):  # it has ended already, or with its machine
        ray.get(coordinator.shutdown_executor.remote(), timeout=END_S)
    ray.kill(coordinator)


def warm_up(delivery: Delivery, number: int) -> None:
    """Read a micro-batch for nothing: Ray Data's own actors start, and readers import and open what they need."""
    everything = replace(delivery, decoded_share=1.0) if delivery.decoded_share else delivery
    _dataset([ReadBlock(everything, (number,), rows=1)] * int(1 / TASK_CPUS)).materialize()


def receive(iterator: DataIterator) -> Iterator[Parcel]:
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

    delivery: Delivery
    numbers: tuple[int, ...]
    rows: int
    place: int = 0

    def __call__(self) -> Iterable[Block]:
        """Yield the block.

        Raises:
            StorageError: the store is failing.
            DataSetError: a data set is no longer the one that the run was planned with.
        """
        delivery = self.delivery
        rows: list[Row] = [
            delivery.decoder(batch) if delivery.decodes(place) else batch
            for place, batch in enumerate(delivery.reader.read(self.numbers), self.place)
        ]
        yield pack(rows + [None] * (self.rows - len(rows)))


def _metadata(rows: int) -> BlockMetadata:
    return BlockMetadata(num_rows=rows, size_bytes=None, input_files=None, exec_stats=None)
