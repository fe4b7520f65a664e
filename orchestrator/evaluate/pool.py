"""A pool of actors that keeps all of them busy, and gives the work of a lost one to the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from orchestrator.config.errors import FuserayError
from orchestrator.evaluate.actors import LostFeatures, MeasuringActor, ModelSource
from orchestrator.evaluate.block_stream import stream_blocks
from orchestrator.evaluate.held_out import HeldOutSamples
from orchestrator.evaluate.records import EncodedBlock
from workloads.contract import Chunk, EvaluationOptions, FeatureName, Record, WorkloadError

PIECES_PER_ACTOR = 2
"""One that runs, and one that waits, so that no actor waits for the driver."""

LOSSES_WITHOUT_PROGRESS = 3
"""Actors per place that may be lost in a row before any of them finishes a piece."""


class MeasuringError(FuserayError):
    """The actors cannot do the work; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How many actors there are, and what each reserves.

    Args:
        workers: how many.
        cpus: of each.
        gpus: of each.
    """

    workers: int
    cpus: float
    gpus: float = 0.0


Start = Callable[[Any], Sequence[Any]]
"""Submits a piece of work to an actor; returns references to its results, of which the first is small."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of work.

    Args:
        number: its number.
        start: submits it.
        again: submits it when it has to be done again, since its input may be lost as well.
    """

    number: int
    start: Start
    again: Start


@dataclass(frozen=True, slots=True)
class Done:
    """A finished piece: its number, its result, and references to what came with it."""

    number: int
    result: Any
    others: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Running:
    piece: Piece
    place: int
    actor: Any
    references: Sequence[Any]


class ActorPool:
    """Does pieces of work in actors; as a context manager, it ends them.

    Args:
        new_actor: starts an actor.
        places: how many there are at a time.
        log: is passed messages for the user.
    """

    def __init__(self, new_actor: Callable[[], Any], places: int, log: Callable[[str], None]) -> None:
        self._new_actor = new_actor
        self._log = log
        self._actors = [new_actor() for _ in range(places)]
        self._running: dict[Any, _Running] = {}
        self._lost_in_a_row = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def run(self, pieces: Iterable[Piece]) -> Iterator[Done]:
        """Do pieces of work; yields them as they are finished.

        Args:
            pieces: taken when there is an actor for the next one.

        Raises:
            MeasuringError: actors are lost again and again.
            Exception: what a piece raised.
        """
        waiting, again = iter(pieces), deque[Piece]()
        while True:
            while (place := self._free_place()) is not None and (piece := self._next(waiting, again)) is not None:
                self._start(piece, place)
            if not self._running:
                return
            (reference,), _ = ray.wait(list(self._running))
            running = self._running.pop(reference)
            try:
                result = ray.get(reference)
            except RayActorError as error:
                self._replace(running, error)
            except ObjectLostError:
                pass
            except RayTaskError as error:
                raise _cause(error) from error
            else:
                self._lost_in_a_row = 0
                yield Done(running.piece.number, result, running.references[1:])
                continue
            again.append(Piece(running.piece.number, running.piece.again, running.piece.again))

    def _next(self, waiting: Iterator[Piece], again: deque[Piece]) -> Piece | None:
        return again.popleft() if again else next(waiting, None)

    def _free_place(self) -> int | None:
        """Return the place with the fewest pieces, None when all have enough."""
        counts = [0] * len(self._actors)
        for running in self._running.values():
            counts[running.place] += 1
        fewest = min(range(len(counts)), key=counts.__getitem__)
        return fewest if counts[fewest] < PIECES_PER_ACTOR else None

    def _start(self, piece: Piece, place: int) -> None:
        references = piece.start(self._actors[place])
        self._running[references[0]] = _Running(piece, place, self._actors[place], references)

    def _replace(self, running: _Running, error: RayActorError) -> None:
        """Start another actor in the place of one that is lost, once."""
        if running.actor is not self._actors[running.place]:
            return
        self._lost_in_a_row += 1
        lines = str(error).strip().splitlines() or ["no reason given"]
        reason = lines[0] if lines[-1] == lines[0] else f"{lines[0]} ... {lines[-1].strip()}"
        if self._lost_in_a_row > LOSSES_WITHOUT_PROGRESS * len(self._actors):
            raise MeasuringError(
                f"{self._lost_in_a_row} evaluation actors were lost in a row without finishing anything; the last: "
                f"{reason} If it was killed for want of memory, lower evaluation.batch_size or use fewer actors."
            ) from error
        self._log(f"an evaluation actor is lost ({reason}); another one does its work")
        ray.kill(running.actor)  # it may only have been out of reach
        self._actors[running.place] = self._new_actor()


def _cause(error: RayTaskError) -> BaseException:
    """Return what is wrong for the user: an error of this project as it is."""
    if isinstance(error.cause, (FuserayError, WorkloadError)):
        return error.cause
    lines = str(error).strip().splitlines() or ["no message"]
    if "OutOfMemoryError" in lines[-1]:
        return MeasuringError(f"an evaluation actor has too little memory: {lines[-1]}; lower evaluation.batch_size.")
    return MeasuringError(f"an evaluation actor failed: {lines[-1]}\n{error}")


class RayExecutor:
    """Has a pool of actors do the work of an evaluation; features stay in Ray's object store, which spills to disk.

    Args:
        pool: its actors are `MeasuringActor`s.
        held_out: the samples.
        feature_names: of the evaluator.
    """

    def __init__(self, pool: ActorPool, held_out: HeldOutSamples, feature_names: Sequence[str]) -> None:
        self._pool = pool
        self._held_out = held_out
        self._names = tuple(feature_names)
        self._features: dict[FeatureName, Any] = {}
        self._present: set[int] = set()

    def encode(self, numbers: Sequence[int]) -> Iterator[EncodedBlock]:
        """Encode blocks, which Ray Data reads."""
        if numbers:
            yield from self._encoded(
                Piece(number, self._encoding(number, table), self._encoding(number, None))
                for number, table in stream_blocks(self._held_out, numbers)
            )

    def score(self, chunks: Mapping[int, Chunk]) -> Iterator[tuple[int, Record]]:
        """Score chunks; blocks whose features are lacking, or are lost meanwhile, are encoded again."""
        outstanding = dict(chunks)
        while outstanding:
            self._encode_again({block for chunk in outstanding.values() for block, _ in chunk.needs})
            pieces = [Piece(number, start, start) for number, start in self._scorings(outstanding)]
            for done in self._pool.run(pieces):
                if isinstance(done.result, LostFeatures):
                    self._present -= done.result.blocks
                    continue
                del outstanding[done.number]
                yield done.number, done.result

    def _scorings(self, chunks: Mapping[int, Chunk]) -> Iterator[tuple[int, Start]]:
        for number, chunk in chunks.items():
            yield number, self._scoring(chunk)

    def _scoring(self, chunk: Chunk) -> Start:
        references = {name: self._features[name] for name in chunk.needs}
        return lambda actor: (actor.score.remote(chunk, references),)

    def _encode_again(self, numbers: set[int]) -> None:
        lacking = sorted(numbers - self._present)
        pieces = (Piece(number, self._encoding(number, None), self._encoding(number, None)) for number in lacking)
        for _ in self._encoded(pieces):
            pass

    def _encoding(self, number: int, table: Any) -> Start:
        count = 1 + len(self._names)

        def start(actor: Any) -> Sequence[Any]:
            references = actor.encode.options(num_returns=count).remote(number, table)
            return references if count > 1 else (references,)

        return start

    def _encoded(self, pieces: Iterable[Piece]) -> Iterator[EncodedBlock]:
        for done in self._pool.run(pieces):
            for name, reference in zip(self._names, done.others, strict=True):
                self._features[done.number, name] = reference
            self._present.add(done.number)
            yield done.result


def actor_pool(
    source: ModelSource,
    options: EvaluationOptions,
    held_out: HeldOutSamples,
    pool: PoolOptions,
    log: Callable[[str], None],
) -> ActorPool:
    """Return a pool of actors that measure a model."""
    actor: Any = ray.remote(MeasuringActor)
    placed = actor.options(num_cpus=pool.cpus, num_gpus=pool.gpus, scheduling_strategy="SPREAD")
    return ActorPool(lambda: placed.remote(source, options, held_out), pool.workers, log)
