"""A worker's end of the channel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import ray

from orchestrator.stream.micro_batch import MicroBatch, Skipped
from orchestrator.train.channel import Record
from orchestrator.train.recovery.order import Order


class Line:
    """Worker 0 reports every step and hears what is wanted; the others report what they skipped and messages alone.

    Args:
        channel: the actor.
        rank: this worker's number.
    """

    def __init__(self, channel: Any, rank: int) -> None:
        self._channel = channel
        self._rank = rank
        self._pending: ray.ObjectRef[Order] | None = None
        self._said: ray.ObjectRef[None] | None = None
        self.order = Order.GO_ON

    def begin(self, first_step: int, workers: int) -> int:
        """Say that this worker, which must be worker 0, begins; return the number of the attempt."""
        return int(ray.get(self._channel.begin.remote(first_step, workers)))

    def note(self, text: str) -> None:
        """Send a message for people without waiting; what several workers say alike reaches them once."""
        self._said = self._channel.say.remote(text)

    def publish(self, record: Record, batches: Iterable[MicroBatch]) -> None:
        """Send a record without waiting; the answer is read at the next step."""
        skipped: tuple[Skipped, ...] = tuple(skip for batch in batches for skip in batch.skipped)
        if self._rank != 0:
            if skipped:
                self._channel.publish.remote(Record(record.step, skipped=skipped))
            return
        self._arrive()
        self._pending = self._channel.publish.remote(replace(record, skipped=skipped))

    def leave(self) -> None:
        """Say that the workers make room."""
        if self._rank == 0:
            ray.get(self._channel.leave.remote())

    def close(self) -> None:
        """Wait until all has arrived."""
        self._arrive()
        if self._said is not None:
            ray.get(self._said)

    def _arrive(self) -> None:
        if self._pending is not None:
            self.order = Order(ray.get(self._pending))
            self._pending = None
