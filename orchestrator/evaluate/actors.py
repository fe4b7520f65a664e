"""The actors that measure a model: each loads it once, and does pieces of both stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import ObjectLostError

from orchestrator.evaluate.block_stream import open_block
from orchestrator.evaluate.held_out import HeldOutSamples
from orchestrator.evaluate.measure import encode_block, score_chunk
from workloads.contract import Chunk, EvaluationOptions, Evaluator, FeatureName, Record

if TYPE_CHECKING:
    from workloads.contract import Workload


class ModelSource(Protocol):
    """Where a model comes from; travels to the actors, so it holds no tensors."""

    def load(self) -> Workload:
        """Return the workload with its model, on the device that this process should use.

        Raises:
            CheckpointError: the checkpoint is damaged or gone.
        """
        ...

    def without_model(self) -> Workload:
        """Return the workload before its model is built."""
        ...


@dataclass(frozen=True, slots=True)
class LostFeatures:
    """A chunk could not be scored, since machines with these blocks' features are lost."""

    blocks: frozenset[int]


class MeasuringActor:
    """Measures one model on pieces of work; a Ray actor.

    Args:
        source: where the model comes from.
        options: how to evaluate.
        held_out: the samples.
    """

    def __init__(self, source: ModelSource, options: EvaluationOptions, held_out: HeldOutSamples) -> None:
        self._source = source
        self._options = options
        self._held_out = held_out
        self._context = ExitStack()
        self._loaded: Evaluator | None = None

    def encode(self, number: int, table: pa.Table | None) -> Any:
        """Encode a block.

        Args:
            number: of the block.
            table: the block as Ray Data read it; None to read it here.

        Returns:
            The block, followed by the features in the order of the evaluator's names, None for one that is lacking;
            without such names the block alone.
        """
        evaluator = self._evaluator()
        stored = self._held_out.read(number) if table is None else open_block(table, number)
        block, part = encode_block(evaluator, stored)
        names = evaluator.feature_names
        return (block, *(part.features.get(name) for name in names)) if names else block

    def score(self, chunk: Chunk, references: dict[FeatureName, Any]) -> Record | LostFeatures:
        """Score a chunk.

        Args:
            chunk: the chunk.
            references: to the features that it needs, in the object store.
        """
        features = FetchedFeatures(references)
        try:
            return score_chunk(self._evaluator(), self._held_out, chunk, features)
        except ObjectLostError:
            return LostFeatures(frozenset({features.last[0]} if features.last else {}))

    def _evaluator(self) -> Evaluator:
        """Return the evaluator; the model is loaded at the first call, so that errors there reach the driver."""
        if self._loaded is None:
            workload = self._source.load()
            self._loaded = self._context.enter_context(workload.evaluator(self._options))
        return self._loaded


class FetchedFeatures(Mapping[FeatureName, np.ndarray]):
    """Features that are fetched from the object store when they are looked up; on one machine nothing is copied.

    Args:
        references: to the arrays.
    """

    def __init__(self, references: Mapping[FeatureName, Any]) -> None:
        self._references = references
        self.last: FeatureName | None = None

    def __getitem__(self, key: FeatureName) -> np.ndarray:
        """Fetch an array.

        Raises:
            ObjectLostError: the machine that had it is lost; `last` is its name.
        """
        reference, self.last = self._references[key], key
        array: np.ndarray = ray.get(reference)
        return array

    def __iter__(self) -> Iterator[FeatureName]:
        """Yield the names."""
        return iter(self._references)

    def __len__(self) -> int:
        """Return how many arrays there are."""
        return len(self._references)
