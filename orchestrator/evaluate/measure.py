"""An evaluation from its blocks to its outcome; who does the pieces of work, and where, is up to an executor.

The outcome does not depend on the executor, since blocks and chunks are the same for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from orchestrator.evaluate.features import FeatureStore
from orchestrator.evaluate.held_out import HeldOutSamples, Measurement, StoredBlock, describe, unusable_sample
from orchestrator.evaluate.records import EncodedBlock, FinishedWork
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.unusable import UnusableSample
from workloads.contract import SKIPPED, Chunk, Evaluator, FeatureName, Part, Record, Sample, WorkloadError


class Executor(Protocol):
    """Does pieces of work; results come in any order. Features stay with the executor."""

    def encode(self, numbers: Sequence[int]) -> Iterator[EncodedBlock]:
        """Encode blocks."""
        ...

    def score(self, chunks: Mapping[int, Chunk]) -> Iterator[tuple[int, Record]]:
        """Score chunks, by number; blocks whose features are lacking are encoded again."""
        ...


class Progress(Protocol):
    """Shows how far an evaluation is."""

    def begin(self, unit: str, total: int, done: int) -> None:
        """Begin a stage: how many things there are, and how many of them were done before."""
        ...

    def advance(self, count: int) -> None:
        """Show that so many more things are done."""
        ...


class NoProgress:
    """Shows nothing."""

    def begin(self, unit: str, total: int, done: int) -> None:
        """Do nothing."""

    def advance(self, count: int) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Measuring:
    """One evaluation.

    Args:
        planner: an evaluator that is asked to decide, and may lack a model.
        held_out: the samples.
        executor: does the work.
        finished: keeps what is done.
        progress: is shown how far it is.
    """

    planner: Evaluator
    held_out: HeldOutSamples
    executor: Executor
    finished: FinishedWork = field(default_factory=lambda: FinishedWork(None))
    progress: Progress = field(default_factory=NoProgress)

    def run(self) -> Measurement:
        """Evaluate; samples that cannot be used are left out, counted and listed.

        Raises:
            DataSetError: the samples are gone, or not a single one can be read.
            StorageError: the store is failing.
            WorkloadError: the workload cannot use them; the message begins with where they are.
        """
        try:
            return self._run()
        except WorkloadError as error:
            uri = self.held_out.folder.uri
            raise error if str(error).startswith(uri) else WorkloadError(f"{uri}: {error}") from error

    def _run(self) -> Measurement:
        blocks = self._encode()
        unusable = tuple(one for block in blocks for one in (*block.unreadable, *block.unusable.values()))
        _refuse_unusable(self.held_out, blocks, unusable)
        summaries = [block.summary for block in blocks]
        chunks = self.planner.plan(summaries)
        evaluation = self.planner.finish(summaries, chunks, self._score(chunks))
        skipped = {SKIPPED: float(len(unusable))}
        evaluation = replace(evaluation, metrics={**evaluation.metrics, **skipped})
        return Measurement(evaluation, unusable, self.held_out)

    def _encode(self) -> list[EncodedBlock]:
        blocks = self.finished.blocks()
        lacking = [number for number in range(self.held_out.blocks) if number not in blocks]
        total = self.held_out.total
        self.progress.begin("samples", total, total - sum(map(self._size, lacking)))
        for block in self.executor.encode(lacking):
            blocks[block.number] = block
            self.finished.add_block(block)
            self.progress.advance(self._size(block.number))
        return [blocks[number] for number in range(self.held_out.blocks)]

    def _size(self, number: int) -> int:
        first = number * self.held_out.block_size
        return min(self.held_out.block_size, self.held_out.total - first)

    def _score(self, chunks: Sequence[Chunk]) -> list[Record]:
        results = self.finished.results(chunks)
        if chunks:
            done = sum(chunks[number].items for number in results)
            self.progress.begin(chunks[0].unit, sum(chunk.items for chunk in chunks), done)
        lacking = {number: chunk for number, chunk in enumerate(chunks) if number not in results}
        for number, result in self.executor.score(lacking) if lacking else ():
            results[number] = result
            self.finished.add_result(number, chunks[number], result)
            self.progress.advance(chunks[number].items)
        return [results[number] for number in range(len(chunks))]


def _refuse_unusable(
    held_out: HeldOutSamples, blocks: Sequence[EncodedBlock], unusable: tuple[UnusableSample, ...]
) -> None:
    if len(unusable) < held_out.total:
        return
    if not any(block.readable for block in blocks):
        raise DataSetError(f"{held_out.folder.uri}: {describe(held_out, unusable)}.")
    raise WorkloadError(f"no sample to evaluate: {describe(held_out, unusable)}.")


def encode_block(evaluator: Evaluator, stored: StoredBlock) -> tuple[EncodedBlock, Part]:
    """Run a model on a block."""
    block = stored.block
    part = evaluator.encode(block)
    keys = dict(zip(block.rows, block.samples, strict=True))
    unusable = {row: unusable_sample(keys[row].key, fault) for row, fault in sorted(part.unusable.items())}
    return EncodedBlock(block.number, len(block.rows), plain(part.summary), stored.unreadable, unusable), part


def score_chunk(
    evaluator: Evaluator, held_out: HeldOutSamples, chunk: Chunk, features: Mapping[FeatureName, np.ndarray]
) -> Record:
    """Run a model on a chunk."""
    samples: dict[int, Sample] = {row: held_out.sample(row) for row in chunk.rows}
    return plain(evaluator.score(chunk, features, samples))


def plain(record: Record) -> Record:
    """Return a record with its values as they come back from where it is kept: lists in place of tuples."""
    return Record(record.arrays, json.loads(json.dumps(record.values)))


class InProcess:
    """Does the work in this process.

    Args:
        evaluator: with a model.
        held_out: the samples.
        features: keeps the features.
    """

    def __init__(self, evaluator: Evaluator, held_out: HeldOutSamples, features: FeatureStore) -> None:
        self._evaluator = evaluator
        self._held_out = held_out
        self._features = features
        self._present: set[int] = set()

    def encode(self, numbers: Sequence[int]) -> Iterator[EncodedBlock]:
        """Encode blocks, in their order."""
        for number in numbers:
            block, part = encode_block(self._evaluator, self._held_out.read(number))
            for name, array in part.features.items():
                self._features[number, name] = array
            self._present.add(number)
            yield block

    def score(self, chunks: Mapping[int, Chunk]) -> Iterator[tuple[int, Record]]:
        """Score chunks, in their order."""
        for number, chunk in chunks.items():
            for _ in self.encode(sorted({block for block, _ in chunk.needs} - self._present)):
                pass
            yield number, score_chunk(self._evaluator, self._held_out, chunk, self._features)
