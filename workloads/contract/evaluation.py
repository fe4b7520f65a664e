"""Evaluation as work that is shared out: two stages in parallel, each followed by a decision in one place.

    encode(block)                          per block of samples, anywhere: a small summary, and features that stay there
    plan(summaries)                        once: the chunks of a second stage; none for a task without one
    score(chunk, features, samples)        per chunk, anywhere: a small result
    finish(summaries, chunks, results)     once: the metrics

Blocks and chunks are cut by options, never by the number of processes, and what is made of one depends on nothing but
the model, the options and its content. So the outcome is the same to the bit however the work was shared out, in which
order it was done, and how often a part of it was done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
from pydantic import Field

from workloads.contract.reporting import Evaluation
from workloads.contract.samples import BadSample, Sample
from workloads.contract.section import Section
from workloads.contract.workload import WorkloadError

SKIPPED = "skipped"
"""Name of the metric that counts the held-out samples that cannot be used, for whatever reason."""


class EvaluationOptions(Section):
    """How to evaluate; a workload adds its own. They stand in the recipe's section `evaluation`."""

    batch_size: int = Field(64, ge=1, description="Samples per forward pass.")
    block: int = Field(
        128, ge=1, description="Samples that are encoded as one piece of work, which is kept when a machine is lost."
    )

    def while_training(self) -> Self:
        """Return the options for a measurement while training, of the metrics that are declared for that."""
        return self


@dataclass(frozen=True, slots=True)
class Record:
    """A small result that travels to where decisions are made, and that is kept: it is neither pickled nor evaluated.

    Args:
        arrays: by name, of plain numbers or booleans.
        values: what JSON can hold, keys as strings; a tuple comes back as a list.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive held-out samples, those that can be read.

    Args:
        number: of the block, from 0.
        rows: row of each sample among those evaluated, ascending.
        samples: the samples.
    """

    number: int
    rows: tuple[int, ...]
    samples: tuple[Sample, ...]


FeatureName = tuple[int, str]
"""Number of a block, and the name of an array among its features."""


@dataclass(frozen=True, slots=True)
class Part:
    """What `encode` makes of a block.

    Args:
        summary: what `plan` and `finish` need to know of it.
        features: large arrays for the second stage; each is kept apart, where it was made or on a disk.
        unusable: why samples cannot be used, by their row; the others go on without them.
    """

    summary: Record = field(default_factory=Record)
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    unusable: Mapping[int, BadSample] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the second stage.

    Args:
        task: what is to be done, for example which rows to compare.
        needs: the features that it reads; arrays that it reads first, or most of, come first.
        rows: rows of samples that it needs as they are stored.
        items: how many things it does, for the display of progress.
        unit: what these are, in the plural.
    """

    task: Record
    needs: tuple[FeatureName, ...] = ()
    rows: tuple[int, ...] = ()
    items: int = 1
    unit: str = "pairs"


class Evaluator(Protocol):
    """Measures a model. What is decided in one place, `plan` and `finish`, may be asked before the model is built."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of all arrays that `encode` may return as features; a block may lack some."""
        ...

    def encode(self, block: Block) -> Part:
        """Run the model on a block. A block may be empty, or have no usable sample."""
        ...

    def plan(self, summaries: Sequence[Record]) -> Sequence[Chunk]:
        """Return the chunks of the second stage, given the summaries of all blocks in their order. Pure."""
        ...

    def score(self, chunk: Chunk, features: Mapping[FeatureName, np.ndarray], samples: Mapping[int, Sample]) -> Record:
        """Run the model on a chunk.

        Args:
            chunk: from `plan`.
            features: those that the chunk needs; each is fetched when it is looked up, and must not be written into.
            samples: those that the chunk needs, by row.
        """
        ...

    def finish(self, summaries: Sequence[Record], chunks: Sequence[Chunk], results: Sequence[Record]) -> Evaluation:
        """Return the outcome, given everything in order. Pure."""
        ...


def evaluate_blocks(
    evaluator: Evaluator,
    blocks: Iterable[Block],
    samples: Mapping[int, Sample],
    features: MutableMapping[FeatureName, np.ndarray] | None = None,
) -> Evaluation:
    """Evaluate in this process.

    Args:
        evaluator: with a model.
        blocks: in order.
        samples: looked up by row when a chunk needs one.
        features: keeps the features; in memory unless given.

    Raises:
        WorkloadError: no sample can be used.
    """
    features = {} if features is None else features
    summaries: list[Record] = []
    unusable: dict[int, BadSample] = {}
    total = 0
    for block in blocks:
        part = evaluator.encode(block)
        summaries.append(part.summary)
        unusable |= part.unusable
        total += len(block.rows)
        for name, array in part.features.items():
            features[block.number, name] = array
    refuse_unusable(total, unusable)
    chunks = evaluator.plan(summaries)
    results = [evaluator.score(chunk, features, {row: samples[row] for row in chunk.rows}) for chunk in chunks]
    return with_unusable(evaluator.finish(summaries, chunks, results), unusable)


def evaluate_samples(evaluator: Evaluator, samples: Sequence[Sample], options: EvaluationOptions) -> Evaluation:
    """Evaluate samples that are at hand, in this process; their rows are their places in the sequence.

    Raises:
        WorkloadError: no sample can be used.
    """
    return evaluate_blocks(evaluator, cut(samples, options.block), dict(enumerate(samples)))


def cut(samples: Sequence[Sample], size: int) -> Iterator[Block]:
    """Yield the blocks of some samples."""
    for number, start in enumerate(range(0, len(samples), size)):
        some = tuple(samples[start : start + size])
        yield Block(number, tuple(range(start, start + len(some))), some)


def refuse_unusable(total: int, unusable: Mapping[int, BadSample]) -> None:
    """Refuse to go on when not a single sample can be used.

    Args:
        total: samples that were encoded.
        unusable: why samples cannot be used, by their row.

    Raises:
        WorkloadError: there is no other.
    """
    if len(unusable) < total:
        return
    first = f"; the first: {unusable[min(unusable)]}" if unusable else ""
    raise WorkloadError(f"no sample to evaluate: none of {total} can be used{first}")


def with_unusable(evaluation: Evaluation, unusable: Mapping[int, BadSample]) -> Evaluation:
    """Return an evaluation with the samples that could not be used, which the metric `skipped` counts."""
    metrics = {**evaluation.metrics, SKIPPED: float(len(unusable))}
    return replace(evaluation, metrics=metrics, unusable=dict(sorted(unusable.items())))
