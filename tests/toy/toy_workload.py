"""A workload small enough to follow by hand: two linear towers with a queue, on real encoded images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from workloads.contract import (
    BadSample,
    BatchShape,
    Clock,
    Evaluation,
    EvaluationOptions,
    Features,
    KeyedRandom,
    MetricNames,
    MicroResult,
    ParameterGroup,
    Problem,
    Sample,
    Section,
)

SIDE = 4
QUEUE = 32


class ToyConfig(Section):
    """Width of the towers."""

    width: int = 8


class ToyTransform:
    """A thumbnail with keyed noise, and the caption's length."""

    def __call__(self, sample: Sample, draw: KeyedRandom) -> Features:
        try:
            pixels = np.asarray(
                Image.open(io.BytesIO(sample.image)).convert("L").resize((SIDE, SIDE)), dtype=np.float32
            )
        except (UnidentifiedImageError, OSError) as error:
            raise BadSample("image is corrupt", str(error)) from error
        noise = draw.child("noise").numpy().normal(size=pixels.shape).astype(np.float32)
        words = np.array([len(sample.captions[0]), sum(map(ord, sample.captions[0])) % 17], dtype=np.float32)
        return {"image": pixels / 255 + 0.1 * noise, "words": words / 10}


class ToyWorkload:
    """Contrastive loss against the micro-batch and a queue, with dropout, so that every kind of state matters."""

    def __init__(self, config: ToyConfig) -> None:
        self._config = config

    def build(self, device: Any, draw: KeyedRandom, pretrained: bool = True) -> Any:
        import torch
        from torch import nn

        torch.manual_seed(draw.child("toy").seed())
        self.model = nn.ModuleDict(
            {"image": nn.Linear(SIDE * SIDE, self._config.width), "words": nn.Linear(2, self._config.width)}
        ).to(device)
        self.model.register_buffer("queue", torch.zeros(QUEUE, self._config.width))
        return self.model

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("all", list(self.model.parameters()), weight_decay=True)]

    def shard_units(self) -> list[Any]:
        return [self.model["image"]]

    def begin_step(self, clock: Clock) -> None:
        pass

    def micro_step(self, batch: Mapping[str, Any], clock: Clock, backward: Any) -> MicroResult:
        import torch
        from torch.nn import functional

        dtype = self.model["image"].weight.dtype
        image = self.model["image"](functional.dropout(batch["image"].flatten(1).to(dtype), 0.1))
        words = self.model["words"](batch["words"].to(dtype))
        keys = torch.cat([words, self.model.queue.to(dtype)])
        loss = functional.cross_entropy(image @ keys.T, torch.arange(len(image)))
        backward(loss, final=True)
        return MicroResult({"loss": loss.detach()}, {"words": words.detach()})

    def empty_result(self, clock: Clock) -> MicroResult:
        weight = self.model["words"].weight
        return MicroResult({"loss": weight.new_zeros(())}, {"words": weight.new_zeros(0, self._config.width)})

    def end_step(self, clock: Clock, shared: Mapping[str, Any]) -> None:
        import torch

        self.model.queue.copy_(torch.cat([shared["words"].to(self.model.queue.dtype), self.model.queue])[:QUEUE])

    def evaluate(self, samples: Sequence[Sample], options: EvaluationOptions) -> Evaluation:
        return Evaluation({"samples": float(len(samples))})

    def export(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(self.model.state_dict(), folder / "model.safetensors")


class ToyEntry:
    """Registers the toy."""

    config_type = ToyConfig
    architecture_keys = ("width",)

    def check(self, config: ToyConfig, batch: BatchShape) -> Iterator[Problem]:
        if config.width > 64:
            yield Problem("width", "must be at most 64.")

    def metric_names(self, config: ToyConfig) -> MetricNames:
        return MetricNames(("loss",), evaluation=("samples",))

    def transform(self, config: ToyConfig) -> ToyTransform:
        return ToyTransform()

    def create(self, config: ToyConfig) -> ToyWorkload:
        return ToyWorkload(config)


ENTRY = ToyEntry()
