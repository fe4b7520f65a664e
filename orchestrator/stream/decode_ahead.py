"""Decoding in a worker's threads, ahead of training and in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from orchestrator.stream.block import Parcel
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import MicroBatch


@dataclass(slots=True)
class Waits:
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
        self.waits = Waits()

    def run(self, parcels: Iterator[Parcel]) -> Iterator[MicroBatch]:
        """Start at once; yield the micro-batches in the order of the parcels. Errors surface here."""
        ready: queue.Queue[Future[MicroBatch | None]] = queue.Queue(maxsize=self._ahead)
        threading.Thread(target=self._fill, args=(parcels, ready), daemon=True, name="stream-fetch").start()
        return self._drain(ready)

    def _fill(self, parcels: Iterator[Parcel], ready: queue.Queue[Future[MicroBatch | None]]) -> None:
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
