"""`StreamLoader` delivers a worker's micro-batches, step after step, read and decoded ahead in the background.

Also here: the decoding threads, and the warning when training waits for the stream.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter

from ray.data import DataIterator

from orchestrator.config.errors import FuserayError
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.order.partition import Segment, WorkerPartition
from orchestrator.stream.ray_dataset import EncodedMicroBatch, ReadPlan, receive, shutdown, split_among_workers

Broadcast = Callable[[list[DataIterator] | None], list[DataIterator]]
"""A collective: returns to every worker what worker 0 passed; all workers must call it."""

BOTTLENECK_SHARE = 0.1
"""Share of the time that training may wait for data without a warning."""

CHECK_STEPS = 100
"""Steps between two checks for a bottleneck."""


@dataclass(frozen=True, eq=False)
class PrefetchedSegment:
    """The first segment, split before the workers exist, so that Ray Data starts while they do."""

    partition: WorkerPartition
    parts: list[DataIterator]

    @classmethod
    def of(cls, read_plan: ReadPlan, partition: WorkerPartition) -> PrefetchedSegment | None:
        """Split the first segment of a partition among the workers; None when there is no segment."""
        first = next(partition.segments(), None)
        return None if first is None else cls(partition, split_among_workers(read_plan, partition, first))

    def shutdown(self) -> None:
        """Stop reading, for workers that no longer exist; what was read is dropped."""
        shutdown(self.parts)


class StreamError(FuserayError):
    """The stream delivered another micro-batch than the sample order defines."""


class StreamEndedError(FuserayError):
    """The stream ended before all planned samples were delivered, because a reader failed."""


class StreamLoader:
    """Delivers a worker's micro-batches, read and decoded ahead in the background.

    Reading starts at once. The next segment starts when half of the current one is used, so there is no gap between
    segments.

    Args:
        read_plan: what is read, and how much of it the readers decode.
        partition: which worker runs which micro-batches.
        worker: this worker's rank.
        threads: decoding threads of this worker.
        ahead: micro-batches that are prefetched.
        broadcast: hands worker 0's iterators to all workers.
        prefetched: the first segment, if it was split for this partition beforehand.
        decoded_share: returns the share of a segment that the readers decode; called when worker 0 splits it, since the
            number of machines changes. None: the share of the read plan.
    """

    def __init__(
        self,
        read_plan: ReadPlan,
        partition: WorkerPartition,
        worker: int,
        threads: int,
        ahead: int,
        broadcast: Broadcast,
        prefetched: PrefetchedSegment | None = None,
        decoded_share: Callable[[], float] | None = None,
    ) -> None:
        self._read_plan = read_plan
        self._partition = partition
        self._worker = worker
        self._broadcast = broadcast
        self._decoded_share = decoded_share or (lambda: read_plan.decoded_share)
        self._decode = DecodeAhead(read_plan.decoder, threads, ahead)
        self._unstarted = partition.segments()
        self._splits: list[list[DataIterator]] = []
        self._started: list[tuple[Segment, Iterator[MicroBatch]]] = []
        self._start_next(prefetched.parts if prefetched and prefetched.partition == partition else None)

    def step(self, step: int) -> list[MicroBatch]:
        """Return this worker's micro-batches of a step; all workers must call it for every step, in order.

        Raises:
            StreamError: another micro-batch arrived than the order defines.
            StreamEndedError: a reader failed, so that no more will arrive.
        """
        if self._started and step not in self._started[0][0].steps:
            self._started.pop(0)
            self._splits.pop(0)
        segment, micro_batches = self._started[0]
        if step == (segment.steps.start + segment.steps.stop) // 2:
            self._start_next()
        return [
            self._expect(next(micro_batches, None), number)
            for number in self._partition.micro_batches_of(step, self._worker)
        ]

    def close(self) -> None:
        """Stop reading, and withdraw Ray Data's requests for machines; called by worker 0."""
        for parts in self._splits:
            shutdown(parts)

    @property
    def waits(self) -> WaitTimes:
        """How long training has waited for micro-batches so far."""
        return self._decode.waits

    def _start_next(self, parts: list[DataIterator] | None = None) -> None:
        segment = next(self._unstarted, None)
        if segment is None:
            return
        if parts is None:
            parts = self._broadcast(self._split(segment) if self._worker == 0 else None)
        self._splits.append(parts)
        self._started.append((segment, self._decode.run(receive(parts[self._worker]))))

    def _split(self, segment: Segment) -> list[DataIterator]:
        return split_among_workers(
            replace(self._read_plan, decoded_share=self._decoded_share()), self._partition, segment
        )

    def _expect(self, micro_batch: MicroBatch | None, number: int) -> MicroBatch:
        if micro_batch is None:
            raise StreamEndedError(
                f"worker {self._worker} expected micro-batch {number}, and the stream has ended: worker 0, which "
                "drives the readers, has failed."
            )
        if micro_batch.number != number:
            raise StreamError(
                f"worker {self._worker} expected micro-batch {number} and got micro-batch {micro_batch.number}. The "
                "order of Ray Data's splitter has changed; install the Ray version that requirements.lock names."
            )
        return micro_batch


@dataclass(slots=True)
class WaitTimes:
    """Seconds that training waited for micro-batches to arrive, and then for them to be decoded."""

    reading_s: float = 0.0
    decoding_s: float = 0.0


class DecodeAhead:
    """Decodes micro-batches in background threads, ahead of training and in order.

    Args:
        decoder: for micro-batches that the readers did not decode.
        threads: number of decoding threads.
        ahead: most micro-batches that are decoded, or being decoded, before training asks for them.
    """

    def __init__(self, decoder: Decoder, threads: int, ahead: int) -> None:
        self._decoder = decoder
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, "stream-decode", initializer=_disable_intra_op_threads)
        self.waits = WaitTimes()

    def run(self, encoded: Iterator[EncodedMicroBatch]) -> Iterator[MicroBatch]:
        """Start at once and yield the micro-batches in their order; errors of reading and decoding are raised here."""
        ready: queue.Queue[Future[MicroBatch | None]] = queue.Queue(maxsize=self._ahead)
        threading.Thread(target=self._fill, args=(encoded, ready), daemon=True, name="stream-fetch").start()
        return self._drain(ready)

    def _fill(self, encoded: Iterator[EncodedMicroBatch], ready: queue.Queue[Future[MicroBatch | None]]) -> None:
        last: Future[MicroBatch | None] = Future()
        try:
            for micro_batch in encoded:
                ready.put(self._pool.submit(micro_batch.open, self._decoder))
            last.set_result(None)
        except BaseException as error:
            last.set_exception(error)
        ready.put(last)

    def _drain(self, ready: queue.Queue[Future[MicroBatch | None]]) -> Iterator[MicroBatch]:
        while True:
            requested = perf_counter()
            future = ready.get()
            arrived = perf_counter()
            micro_batch = future.result()
            self.waits.reading_s += arrived - requested
            self.waits.decoding_s += perf_counter() - arrived
            if micro_batch is None:
                return
            yield micro_batch


def _disable_intra_op_threads() -> None:
    """Run torch's operations in this thread single-threaded: for small ones, waking other threads costs more.

    OpenMP keeps the number per thread, so training is unaffected.
    """
    import torch

    torch.set_num_threads(1)


def bottleneck_advice(reading_s: float, decoding_s: float, total_s: float) -> str | None:
    """Return which setting to change when training waits for data, None when it waits little. A pure decision.

    Args:
        reading_s: seconds that training waited for samples to arrive.
        decoding_s: seconds that training waited for samples that had arrived to be decoded.
        total_s: length of the period in seconds.
    """
    waited = reading_s + decoding_s
    if total_s <= 0 or waited / total_s < BOTTLENECK_SHARE:
        return None
    summary = f"the stream is the bottleneck: training waited for data {waited / total_s:.0%} of the time"
    if decoding_s >= reading_s:
        return (
            f"{summary}, mostly for its own threads to decode. Give the readers more CPUs (lower "
            "scale.cpus_per_worker, or add machines), or raise stream.decode_threads."
        )
    return (
        f"{summary}, mostly for samples to arrive. Add CPUs for reading and decoding, move the data nearer, "
        "or make reads longer with a larger stream.chunk."
    )


class StreamMonitor:
    """Checks every `CHECK_STEPS` steps whether training waits for the stream; the first step is left out."""

    def __init__(self) -> None:
        self._steps = 0
        self._busy_s = 0.0
        self._before: tuple[float, float] | None = None

    def step(self, metrics: Mapping[str, float], busy_s: float) -> str | None:
        """Add a step; return a message for the user, if training waited long.

        Args:
            metrics: of the step, with the wait times of the whole attempt so far.
            busy_s: duration of the step in seconds.
        """
        waits = metrics.get("stream/waited_for_reading_s", 0.0), metrics.get("stream/waited_for_decoding_s", 0.0)
        self._steps, self._busy_s = self._steps + 1, self._busy_s + busy_s
        if self._before is None:
            self._before, self._steps, self._busy_s = waits, 0, 0.0
        if self._steps < CHECK_STEPS:
            return None
        message = bottleneck_advice(waits[0] - self._before[0], waits[1] - self._before[1], self._busy_s)
        self._before, self._steps, self._busy_s = waits, 0, 0.0
        return message
