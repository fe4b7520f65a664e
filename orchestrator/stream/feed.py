"""A worker's view of the stream: the micro-batches of step after step, across segments, without gaps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from ray.data import DataIterator

from orchestrator.spec.errors import FuserayError
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.reader import Reader
from orchestrator.stream.segment import deal, receive
from orchestrator.stream.sharing import Sharing

Broadcast = Callable[[list[DataIterator] | None], list[DataIterator]]
"""Gives every worker what worker 0 passed; all workers must call it."""

Item = TypeVar("Item")


class StreamError(FuserayError):
    """The stream delivered something other than what the order says."""


class Feed:
    """Delivers a worker's micro-batches, reading ahead in the background.

    The next segment is started when the current one is half used, so there is no gap between segments.

    Args:
        reader: makes micro-batches.
        sharing: who runs which.
        worker: this worker's rank.
        ahead: blocks held ready.
        broadcast: hands worker 0's iterators to all.
    """

    def __init__(self, reader: Reader, sharing: Sharing, worker: int, ahead: int, broadcast: Broadcast) -> None:
        self._reader = reader
        self._sharing = sharing
        self._worker = worker
        self._ahead = ahead
        self._broadcast = broadcast
        self._unstarted = sharing.segments()
        self._started: list[tuple[range, Iterator[MicroBatch]]] = []
        self._start_next()

    def step(self, step: int) -> list[MicroBatch]:
        """Return this worker's micro-batches of a step; steps must be asked for in order, by all workers.

        Raises:
            StreamError: another micro-batch arrived than the order says.
        """
        if self._started and step not in self._started[0][0]:
            self._started.pop(0)
        steps, micro_batches = self._started[0]
        if step == (steps.start + steps.stop) // 2:
            self._start_next()
        return [self._expect(next(micro_batches, None), number) for number in self._sharing.share(step, self._worker)]

    def _start_next(self) -> None:
        if not self._unstarted:
            return
        steps = self._unstarted.pop(0)
        parts = self._broadcast(deal(self._reader, self._sharing, steps) if self._worker == 0 else None)
        self._started.append((steps, read_ahead(receive(parts[self._worker], self._ahead), self._ahead)))

    def _expect(self, micro_batch: MicroBatch | None, number: int) -> MicroBatch:
        if micro_batch is None or micro_batch.number != number:
            got = "the end of the segment" if micro_batch is None else f"micro-batch {micro_batch.number}"
            raise StreamError(
                f"worker {self._worker} expected micro-batch {number} and got {got}. The order of Ray Data's splitter "
                "has changed; install the Ray version that requirements.lock names."
            )
        return micro_batch


def read_ahead(items: Iterator[Item], size: int) -> Iterator[Item]:
    """Iterate in a background thread that stays up to `size` items ahead; errors surface in the caller."""
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=size)

    def fill() -> None:
        try:
            for item in items:
                ready.put((item, None))
            ready.put((None, None))
        except BaseException as error:
            ready.put((None, error))

    threading.Thread(target=fill, daemon=True, name="stream-read-ahead").start()
    return _drain(ready)


def _drain(ready: queue.Queue[tuple[Item | None, BaseException | None]]) -> Iterator[Item]:
    while True:
        item, error = ready.get()
        if error is not None:
            raise error
        if item is None:
            return
        yield item
