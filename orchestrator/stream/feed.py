"""A worker's view of the stream: the micro-batches of step after step, across segments, without gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ray.data import DataIterator

from orchestrator.config.errors import FuserayError
from orchestrator.stream.decode_ahead import DecodeAhead, Waits
from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.stream.order.sharing import Segment, Sharing
from orchestrator.stream.segment import Delivery, deal, end, receive

Broadcast = Callable[[list[DataIterator] | None], list[DataIterator]]
"""Gives every worker what worker 0 passed; all workers must call it."""


@dataclass(frozen=True, eq=False)
class Opening:
    """The first segment of a sharing, dealt out before the workers are there, so that Ray Data starts as they do."""

    sharing: Sharing
    parts: list[DataIterator]

    @classmethod
    def of(cls, delivery: Delivery, sharing: Sharing) -> Opening | None:
        """Deal out the first segment, if there is one."""
        first = next(sharing.segments(), None)
        return None if first is None else cls(sharing, deal(delivery, sharing, first))

    def end(self) -> None:
        """End the delivery, when those whom it was for are gone; what it has read is dropped."""
        end(self.parts)


class StreamError(FuserayError):
    """The stream delivered something other than what the order says."""


class StreamEndedError(FuserayError):
    """The stream ended before its order did: whoever has it read has failed."""


class Feed:
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
        delivery: Delivery,
        sharing: Sharing,
        worker: int,
        threads: int,
        ahead: int,
        broadcast: Broadcast,
        opening: Opening | None = None,
        decoded_share: Callable[[], float] | None = None,
    ) -> None:
        self._delivery = delivery
        self._sharing = sharing
        self._worker = worker
        self._broadcast = broadcast
        self._decoded_share = decoded_share or (lambda: delivery.decoded_share)
        self._decode = DecodeAhead(delivery.decoder, threads, ahead)
        self._unstarted = sharing.segments()
        self._dealt: list[list[DataIterator]] = []
        self._started: list[tuple[Segment, Iterator[MicroBatch]]] = []
        self._start_next(opening.parts if opening and opening.sharing == sharing else None)

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
        return [self._expect(next(micro_batches, None), number) for number in self._sharing.share(step, self._worker)]

    def close(self) -> None:
        """End what is being read, and Ray Data's wishes for machines with it; worker 0 is to call it."""
        for parts in self._dealt:
            end(parts)

    @property
    def waits(self) -> Waits:
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
        return deal(replace(self._delivery, decoded_share=self._decoded_share()), self._sharing, segment)

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
