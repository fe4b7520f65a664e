"""Models to measure: each process makes the same one from a key, in float64; some processes die on the way, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from toy_workload import ToyConfig, ToyWorkload

from workloads.contract import (
    Block,
    Chunk,
    Evaluation,
    EvaluationOptions,
    Evaluator,
    FeatureName,
    KeyedRandom,
    Part,
    Record,
    Sample,
    Workload,
)

ALBEF = {
    "model": {
        "image_size": 32,
        "vision": {"patch": 16, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 16, "layers": 1, "fusion_layers": 2, "heads": 2, "vocabulary": 30522, "positions": 16},
        "embed_dim": 8,
        "vision_weights": None,
        "text_weights": None,
    },
    "text": {"tokenizer": "minilm", "max_tokens": 12},
    "contrastive": {"queue_size": 8},
}


@dataclass(frozen=True)
class SeededModel:
    """A source of a model with random weights.

    Args:
        kind: "toy" or "albef".
        dies_at: "encode" or "score", where a process ends by SIGKILL; empty for nowhere.
        died: a file that says that one did; without it each process that gets there dies.
    """

    kind: str
    dies_at: str = ""
    died: Path | None = None

    def load(self) -> Workload:
        workload = self.without_model()
        workload.build(torch.device("cpu"), KeyedRandom(("measured",)), pretrained=False).double()
        return DyingWorkload(workload, self) if self.dies_at else workload

    def without_model(self) -> Any:
        if self.kind == "toy":
            return ToyWorkload(ToyConfig())
        from workloads.albef.config import AlbefConfig
        from workloads.albef.workload import AlbefWorkload  # imports timm, which takes seconds

        return AlbefWorkload(AlbefConfig.model_validate(ALBEF))

    def die_at(self, place: str) -> None:
        """End this process if it is to end at a place."""
        if place != self.dies_at:
            return
        try:
            if self.died is not None:
                self.died.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class DyingWorkload:
    """A workload whose evaluator ends its process."""

    def __init__(self, workload: Any, source: SeededModel) -> None:
        self._workload, self._source = workload, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workload, name)

    @contextmanager
    def evaluator(self, options: EvaluationOptions) -> Iterator[DyingEvaluator]:
        with self._workload.evaluator(options) as evaluator:
            yield DyingEvaluator(evaluator, self._source)


@dataclass(frozen=True)
class DyingEvaluator:
    """An evaluator that ends its process."""

    evaluator: Evaluator
    source: SeededModel

    @property
    def feature_names(self) -> tuple[str, ...]:
        return self.evaluator.feature_names

    def encode(self, block: Block) -> Part:
        if block.number:
            self.source.die_at("encode")
        return self.evaluator.encode(block)

    def plan(self, summaries: Sequence[Record]) -> Sequence[Chunk]:
        return self.evaluator.plan(summaries)

    def score(self, chunk: Chunk, features: Mapping[FeatureName, np.ndarray], samples: Mapping[int, Sample]) -> Record:
        self.source.die_at("score")
        return self.evaluator.score(chunk, features, samples)

    def finish(self, summaries: Sequence[Record], chunks: Sequence[Chunk], results: Sequence[Record]) -> Evaluation:
        return self.evaluator.finish(summaries, chunks, results)
