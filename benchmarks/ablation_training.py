"""One training run of the ablation: the real workload and the real step, on image tokens that are computed once.

The image encoder is locked and images are not augmented, so its tokens of an image are the same in every step; they are
computed once for all runs and given to the workload in place of pixels. All else is what a worker of `fuseray train`
does: `orchestrator.train.step.Stepper` on one worker.

Shapes: B pairs of a micro-batch, I images, N image tokens, C their width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from ablation_corpus import Corpus, swap_captions
from ablation_measures import contrastive_recalls, measure
from ablation_rows import NOISE, Run
from ablation_tokens import ImageTokens, TokenWorkload

from orchestrator.stream.micro_batch import MicroBatch
from orchestrator.train.parallel.base import SingleWorker
from orchestrator.train.parallel.parallelize import parallelize_model
from orchestrator.train.step import Stepper
from workloads.albef.config import AlbefConfig
from workloads.contract import KeyedRandom, Sample
from workloads.transforms.pairs import encode_padded

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batches:
    """The micro-batches of a run: every epoch is a permutation of the samples keyed by seed and epoch.

    Args:
        tokens: of all images, float16 [I, N, C].
        rows: of each sample's image in them, [samples].
        input_ids: of the captions, int32 [samples, L].
        lengths: of the captions in tokens, int32 [samples].
        seed: of the order.
        size: samples of a micro-batch.
    """

    tokens: np.ndarray
    rows: np.ndarray
    input_ids: np.ndarray
    lengths: np.ndarray
    seed: int
    size: int

    @classmethod
    def of(cls, samples: Sequence[Sample], tokens: ImageTokens, config: AlbefConfig, seed: int, size: int) -> Batches:
        """Return the micro-batches of samples, each with its first caption."""
        encoded = [encode_padded(sample.captions[0], config.text) for sample in samples]
        rows = np.array([tokens.rows[sample.key] for sample in samples])
        ids, lengths = (np.stack(column) for column in zip(*encoded, strict=True))
        return cls(tokens.open(), rows, ids, lengths, seed, size)

    def positions(self, number: int) -> np.ndarray:
        """Return which samples a micro-batch of the run holds; epochs run on into one another."""
        places = np.arange(number * self.size, (number + 1) * self.size)
        epochs, inside = np.divmod(places, len(self.rows))
        orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        return np.array([orders[int(epoch)][place] for epoch, place in zip(epochs, inside, strict=True)])

    def _order(self, epoch: int) -> np.ndarray:
        return KeyedRandom((self.seed, "order", epoch)).numpy().permutation(len(self.rows))

    def at(self, number: int) -> MicroBatch:
        """Return a micro-batch of the run."""
        return self.of_positions(self.positions(number), number)

    def of_positions(self, chosen: np.ndarray, number: int = 0) -> MicroBatch:
        """Return a micro-batch of some samples."""
        images = np.asarray(self.tokens[self.rows[chosen]], dtype=np.float32)
        features = {"image": images, "input_ids": self.input_ids[chosen], "length": self.lengths[chosen]}
        return MicroBatch(number, tuple(map(str, chosen.tolist())), features, (), 0)


class Training:
    """A run that has not begun.

    Args:
        run: which.
        corpus: what it trains and is measured on.
        tokens: of the corpus's images.
    """

    def __init__(self, run: Run, corpus: Corpus, tokens: ImageTokens) -> None:
        recipe, config = run.recipe.recipe, cast(AlbefConfig, run.recipe.workload)
        torch.set_num_threads(1)
        self._run, self._corpus, self._tokens = run, corpus, tokens
        self.workload = TokenWorkload(config)
        model = self.workload.build(CPU, KeyedRandom((recipe.seed, "build")))
        samples = swap_captions(corpus.train, NOISE[run.noise], run.seed)
        self._batches = Batches.of(samples, tokens, config, recipe.seed, recipe.batch.micro_batch_size)
        self._per_step = recipe.batch.micro_batches
        collective = SingleWorker()
        parallel = parallelize_model(recipe, self.workload, model, collective, CPU)
        self._stepper = Stepper(recipe, self.workload, parallel, collective, run.steps, len(samples), CPU)

    def step(self, number: int) -> None:
        """Run one step.

        Raises:
            SystemExit: its loss is not finite.
        """
        first = number * self._per_step
        outcome = self._stepper.run(number, [self.micro_batch(first + micro) for micro in range(self._per_step)])
        if not outcome.finite:
            raise SystemExit(f"{self._run}: the loss of step {number} is not finite")

    def micro_batch(self, number: int) -> MicroBatch:
        """Return a micro-batch of the run."""
        return self._batches.at(number)

    def finish(self) -> dict[str, float]:
        """Run all steps; return what is measured."""
        for number in range(self._run.steps):
            self.step(number)
        return self.measure()

    def measure(self) -> dict[str, float]:
        """Return what is measured on the held-out samples."""
        ids, lengths = self._batches.input_ids, self._batches.lengths
        captions = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        return measure(self.workload, self._corpus.held_out, self._held_out(), captions)

    def contrastive_recalls(self) -> dict[str, float]:
        """Return the held-out retrieval metrics of the contrastive similarity alone."""
        return contrastive_recalls(self.workload, self._corpus.held_out, self._held_out())

    def _held_out(self) -> Batches:
        return Batches.of(self._corpus.held_out, self._tokens, self.workload.config, 0, self._batches.size)
