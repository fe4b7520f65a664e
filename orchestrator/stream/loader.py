"""A worker's view of the stream: the micro-batches of step after step, across segments, without gaps."""

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
from orchestrator.stream.ray_dataset import EncodedMicroBatch, ReadPlan, end, receive, split_among_workers

Broadcast = Callable[[list[DataIterator] | None], list[DataIterator]]
"""Gives every worker what worker 0 passed; all workers must call it."""


@dataclass(frozen=True, eq=False)
class PrefetchedSegment:
    """The first segment of a sharing, dealt out before the workers are there, so that Ray Data starts as they do."""

    partition: WorkerPartition
    parts: list[DataIterator]

    @classmethod
    def of(cls, read_plan: ReadPlan, partition: WorkerPartition) -> PrefetchedSegment | None:
        """Deal out the first segment, if there is one."""
        first = next(partition.segments(), None)
        return None if first is None else cls(partition, split_among_workers(read_plan, partition, first))

    def end(self) -> None:
        """End the delivery, when those whom it was for are gone; what it has read is dropped."""
        end(self.parts)


class StreamError(FuserayError):
    """The stream delivered something other than what the order says."""


class StreamEndedError(FuserayError):
    """The stream ended before its order did: whoever has it read has failed."""


class StreamLoader:
    """Delivers a worker's micro-batches, read and decoded ahead in the background.

    Reading starts at once, and the next segment is started when the current one is half used, so there is no gap
    between segments.

    Args:
        delivery: what is read, and where it is decoded.
        sharing: who runs which.
        worker: this worker's rank.
        threads: decoding threads of this worker.
        ahead: micro-batches held ready.
        broadcast: hands worker 0's iterators to all.
        opening: the first segment, when it was dealt out for this sharing beforehand.
        decoded_share: tells how much of a segment the readers decode, asked when worker 0 deals it out, since machines
            come and go; None: as much as the delivery says.
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
        self._dealt: list[list[DataIterator]] = []
        self._started: list[tuple[Segment, Iterator[MicroBatch]]] = []
        self._start_next(prefetched.parts if prefetched and prefetched.partition == partition else None)

    def step(self, step: int) -> list[MicroBatch]:
        """Return this worker's micro-batches of a step; steps must be asked for in order, by all workers.

        Raises:
            StreamError: another micro-batch arrived than the order says.
            StreamEndedError: none will arrive any more.
        """
        if self._started and step not in self._started[0][0].steps:
            self._started.pop(0)
            self._dealt.pop(0)
        segment, micro_batches = self._started[0]
        if step == (segment.steps.start + segment.steps.stop) // 2:
            self._start_next()
        return [
            self._expect(next(micro_batches, None), number)
            for number in self._partition.micro_batches_of(step, self._worker)
        ]

    def close(self) -> None:
        """End what is being read, and Ray Data's wishes for machines with it; worker 0 is to call it."""
        for parts in self._dealt:
            end(parts)

    @property
    def waits(self) -> WaitTimes:
        """How long training has waited for micro-batches so far, and for what."""
        return self._decode.waits

    def _start_next(self, parts: list[DataIterator] | None = None) -> None:
        segment = next(self._unstarted, None)
        if segment is None:
            return
        if parts is None:
            parts = self._broadcast(self._deal(segment) if self._worker == 0 else None)
        self._dealt.append(parts)
        self._started.append((segment, self._decode.run(receive(parts[self._worker]))))

    def _deal(self, segment: Segment) -> list[DataIterator]:
        return split_among_workers(
            replace(self._read_plan, decoded_share=self._decoded_share()), self._partition, segment
        )

    def _expect(self, micro_batch: MicroBatch | None, number: int) -> MicroBatch:
        if micro_batch is None:
            raise StreamEndedError(
                f"worker {self._worker} expected micro-batch {number}, and the stream has ended: worker 0, which has "
                "it read, has failed."
            )
        if micro_batch.number != number:
            raise StreamError(
                f"worker {self._worker} expected micro-batch {number} and got micro-batch {micro_batch.number}. The "
                "order of Ray Data's splitter has changed; install the Ray version that requirements.lock names."
            )
        return micro_batch


# Decoding in a worker's threads, ahead of training and in order.


@dataclass(slots=True)
class WaitTimes:
    """Seconds that training has spent waiting for a micro-batch to arrive, and then for it to be decoded."""

    reading_s: float = 0.0
    decoding_s: float = 0.0


class DecodeAhead:
    """Turns parcels into micro-batches in background threads.

    Args:
        decoder: for parcels that are not decoded yet.
        threads: that decode at the same time.
        ahead: micro-batches that may be decoded, or in the making, before training asks for them.
    """

    def __init__(self, decoder: Decoder, threads: int, ahead: int) -> None:
        self._decoder = decoder
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, "stream-decode", initializer=_compute_alone)
        self.waits = WaitTimes()

    def run(self, parcels: Iterator[EncodedMicroBatch]) -> Iterator[MicroBatch]:
        """Start at once; yield the micro-batches in the order of the parcels. Errors surface here."""
        ready: queue.Queue[Future[MicroBatch | None]] = queue.Queue(maxsize=self._ahead)
        threading.Thread(target=self._fill, args=(parcels, ready), daemon=True, name="stream-fetch").start()
        return self._drain(ready)

    def _fill(self, parcels: Iterator[EncodedMicroBatch], ready: queue.Queue[Future[MicroBatch | None]]) -> None:
        end: Future[MicroBatch | None] = Future()
        try:
            for parcel in parcels:
                ready.put(self._pool.submit(parcel.open, self._decoder))
            end.set_result(None)
        except BaseException as error:
            end.set_exception(error)
        ready.put(end)

    def _drain(self, ready: queue.Queue[Future[MicroBatch | None]]) -> Iterator[MicroBatch]:
        while True:
            asked = perf_counter()
            future = ready.get()
            arrived = perf_counter()
            micro_batch = future.result()
            self.waits.reading_s += arrived - asked
            self.waits.decoding_s += perf_counter() - arrived
            if micro_batch is None:
                return
            yield micro_batch


def _compute_alone() -> None:
    """Keep torch from sharing out this thread's small operations: waking others costs more than it saves.

    OpenMP keeps the number by thread, so training is not touched.
    """
    import torch

    torch.set_num_threads(1)


# Whether training waits for the stream, and which knob to turn: a pure decision.


BOTTLENECK_SHARE = 0.1
"""Share of the time above which waiting is worth a word."""


def bottleneck_advice(reading_s: float, decoding_s: float, total_s: float) -> str | None:
    """Return what to do about waiting for data, or None when there is little of it.

    Args:
        reading_s: seconds that training waited for samples to arrive.
        decoding_s: seconds that training waited for samples that had arrived to be decoded.
        total_s: seconds in which it did so.
    """
    waited = reading_s + decoding_s
    if total_s <= 0 or waited / total_s < BOTTLENECK_SHARE:
        return None
    finding = f"the stream is the bottleneck: training waited for data {waited / total_s:.0%} of the time"
    if decoding_s >= reading_s:
        return (
            f"{finding}, mostly for its own threads to decode. Give the readers more CPUs (lower "
            "scale.cpus_per_worker, or add machines), or raise stream.decode_threads."
        )
    return (
        f"{finding}, mostly for samples to arrive. Add CPUs for reading and decoding, put the data nearer, "
        "or make reads longer with a larger stream.chunk."
    )


# Watches how long training waits for the stream, and speaks up when that is long.


STEPS = 100
"""Steps between two looks."""


class StreamMonitor:
    """Looks at the waiting of every hundred steps; the first ones, with the start of the stream, do not count."""

    def __init__(self) -> None:
        self._steps = 0
        self._busy_s = 0.0
        self._before: tuple[float, float] | None = None

    def step(self, metrics: Mapping[str, float], busy_s: float) -> str | None:
        """Take in a step; return what to tell the user, if anything.

        Args:
            metrics: of the step, with the waits of the whole attempt so far.
            busy_s: seconds of the step.
        """
        waits = metrics.get("stream/waited_for_reading_s", 0.0), metrics.get("stream/waited_for_decoding_s", 0.0)
        self._steps, self._busy_s = self._steps + 1, self._busy_s + busy_s
        if self._before is None:
            self._before, self._steps, self._busy_s = waits, 0, 0.0
        if self._steps < STEPS:
            return None
        found = bottleneck_advice(waits[0] - self._before[0], waits[1] - self._before[1], self._busy_s)
        self._before, self._steps, self._busy_s = waits, 0, 0.0
        return found
