"""An evaluation by processes that all run it at the same time, each its share: the workers of a run.

Every process encodes the blocks and scores the chunks whose turn it is, learns the small results of the others, and
comes to the same outcome. Features stay where they are made; a chunk's are fetched through Ray's object store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.config.errors import FuserayError
from orchestrator.evaluate.actors import FetchedFeatures
from orchestrator.evaluate.held_out import HeldOutSamples
from orchestrator.evaluate.measure import encode_block, score_chunk
from orchestrator.evaluate.records import EncodedBlock
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset.index import DataSetError
from workloads.contract import Chunk, Evaluator, FeatureName, Record


@dataclass(frozen=True, slots=True)
class Failure:
    """What one process tells the others when it cannot do its share.

    Args:
        message: of its error.
        samples_gone: whether the held-out samples could not be read.
    """

    message: str
    samples_gone: bool


class ShareError(FuserayError):
    """One of the processes could not do its share.

    Args:
        failure: what it said.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Exchange:
    """Lets processes pass small values to each other; a Ray actor. Every round ends when all have given theirs.

    Args:
        size: how many processes there are.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._given: dict[int, dict[int, Any]] = {}
        self._complete: dict[int, asyncio.Event] = {}
        self._taken: dict[int, int] = {}

    async def gather(self, number: int, rank: int, value: Any) -> list[Any]:
        """Give a value; return those of all processes by rank, once all have given theirs.

        Args:
            number: of the round.
            rank: of the process.
            value: may hold references to objects.
        """
        given = self._given.setdefault(number, {})
        complete = self._complete.setdefault(number, asyncio.Event())
        given[rank] = value
        if len(given) == self._size:
            complete.set()
        await complete.wait()
        values = [given[other] for other in range(self._size)]
        self._taken[number] = self._taken.get(number, 0) + 1
        if self._taken[number] == self._size:
            del self._given[number], self._complete[number], self._taken[number]
        return values


class ExchangeClient:
    """One process's access to an exchange.

    Args:
        exchange: an actor of class `Exchange`.
        rank: of this process.
        size: how many processes there are.
    """

    def __init__(self, exchange: Any, rank: int, size: int) -> None:
        self._exchange = exchange
        self.rank = rank
        self.size = size
        self._round = 0

    def gather(self, work: Callable[[], Any]) -> list[Any]:
        """Do this process's work, and return what it and the others came to, by rank.

        Raises:
            ShareError: one of the others failed.
            Exception: what the work raised here; the others have been told.
        """
        number, self._round = self._round, self._round + 1
        try:
            value = work()
        except Exception as error:
            ray.get(self._exchange.gather.remote(number, self.rank, _failure(error)))
            raise
        values: list[Any] = ray.get(self._exchange.gather.remote(number, self.rank, value))
        for other in values:
            if isinstance(other, Failure):
                raise ShareError(other)
        return values


def _failure(error: Exception) -> Failure:
    return Failure(str(error), isinstance(error, (StorageError, DataSetError)))


class SharedExecutor:
    """Does this process's share of an evaluation, and takes part in the exchange of results.

    Args:
        evaluator: with a model.
        held_out: the samples.
        exchange: with the other processes.
    """

    def __init__(self, evaluator: Evaluator, held_out: HeldOutSamples, exchange: ExchangeClient) -> None:
        self._evaluator = evaluator
        self._held_out = held_out
        self._exchange = exchange
        self._features: dict[FeatureName, Any] = {}

    def encode(self, numbers: Sequence[int]) -> Iterator[EncodedBlock]:
        """Encode this process's share of the blocks; yields all of them."""
        own = numbers[self._exchange.rank :: self._exchange.size]
        for encoded in self._exchange.gather(lambda: [self._encode(number) for number in own]):
            for block, references in encoded:
                self._features |= {(block.number, name): reference for name, reference in references.items()}
                yield block

    def score(self, chunks: Mapping[int, Chunk]) -> Iterator[tuple[int, Record]]:
        """Score this process's share of the chunks; yields all of them."""
        own = list(chunks)[self._exchange.rank :: self._exchange.size]
        for scored in self._exchange.gather(lambda: [(number, self._score(chunks[number])) for number in own]):
            yield from scored

    def _encode(self, number: int) -> tuple[EncodedBlock, dict[str, Any]]:
        block, part = encode_block(self._evaluator, self._held_out.read(number))
        return block, {name: ray.put(array) for name, array in part.features.items()}

    def _score(self, chunk: Chunk) -> Record:
        features = FetchedFeatures({name: self._features[name] for name in chunk.needs})
        return score_chunk(self._evaluator, self._held_out, chunk, features)
