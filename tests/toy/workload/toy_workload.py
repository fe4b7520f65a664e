"""A workload small enough to follow by hand: two linear towers with a queue, on real encoded images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import Field

from workloads.contract import (
    BadSample,
    BatchShape,
    Block,
    Chunk,
    Clock,
    Evaluation,
    EvaluationOptions,
    FeatureName,
    Features,
    Gallery,
    GalleryRow,
    KeyedRandom,
    Metric,
    MicroResult,
    Panel,
    ParameterGroup,
    Part,
    Picture,
    Problem,
    Record,
    ReportedMetrics,
    Sample,
    Section,
    Table,
    TableRow,
)

SIDE = 4
QUEUE = 32

TOY_PANEL, CAPTIONS_PANEL = Panel("How toys learn", "All of it is small."), Panel("Toy captions over time")
METRICS = ReportedMetrics(
    steps=(
        Metric(
            name="loss",
            title="Toy loss",
            unit="loss (nats)",
            goal="min",
            panel=TOY_PANEL,
            label="loss",
            on_terminal=True,
            headline=True,
            noisy=True,
        ),
        Metric(
            name="agreement",
            title="Agreement of the towers",
            unit="share (%)",
            share=True,
            goal="max",
            panel=TOY_PANEL,
            label="agree",
            on_terminal=True,
        ),
    ),
    evaluation=(
        Metric(name="samples", title="Held-out toys"),
        Metric(
            name="caption_words",
            title="Words of a caption",
            unit="words",
            panel=CAPTIONS_PANEL,
            label="words",
            headline=True,
        ),
    ),
    final_evaluation=(Metric(name="distance", title="Distance of neighbours"),),
    step_hooks="toy queue",
)


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


class ToyOptions(EvaluationOptions):
    """How toys are measured."""

    gallery: int = Field(12, ge=0, description="Toys to show.")
    compare: int = Field(0, ge=0, description="Other toys that each toy is compared with in a second stage; 0: none.")

    def while_training(self) -> Self:
        return self.model_copy(update={"gallery": 0})


class ToyEvaluator:
    """Measures how wide captions are and, on demand, how far the towers' outputs for neighbours are apart."""

    def __init__(self, model: Any, options: ToyOptions) -> None:
        self.model, self.options = model, options

    @property
    def feature_names(self) -> tuple[str, ...]:
        return ("outputs",)

    def encode(self, block: Block) -> Part:
        """Keep a block's captions, and the towers' outputs for its words [n, width] as a feature."""
        import torch

        words = [[len(one.captions[0].split()) / 10, sum(map(ord, one.captions[0])) % 17 / 10] for one in block.samples]
        with torch.no_grad():
            weight = self.model["words"].weight
            outputs = self.model["words"](torch.tensor(words, dtype=weight.dtype, device=weight.device).view(-1, 2))
        values = {"captions": [one.captions[0] for one in block.samples], "keys": [one.key for one in block.samples]}
        summary = Record({"rows": np.array(block.rows, dtype=np.int64)}, values)
        return Part(summary, {"outputs": outputs.cpu().numpy()})

    def plan(self, summaries: Sequence[Record]) -> list[Chunk]:
        """Compare each block's toys with the first ones of the next block."""
        if not self.options.compare:
            return []
        return [
            Chunk(
                Record({}, {"block": number, "with": (number + 1) % len(summaries)}),
                ((number, "outputs"), ((number + 1) % len(summaries), "outputs")),
                items=len(summary.values["keys"]),
                unit="toys",
            )
            for number, summary in enumerate(summaries)
        ]

    def score(self, chunk: Chunk, features: Mapping[FeatureName, np.ndarray], samples: Mapping[int, Sample]) -> Record:
        """Return the distances of all pairs [n, compare]."""
        own, others = features[chunk.task.values["block"], "outputs"], features[chunk.task.values["with"], "outputs"]
        some = others[: self.options.compare]
        return Record({"distances": np.square(own[:, None] - some[None]).sum(-1)})

    def finish(self, summaries: Sequence[Record], chunks: Sequence[Chunk], results: Sequence[Record]) -> Evaluation:
        """Count the samples and measure how wide their captions are; show the first ones."""
        captions = [caption for one in summaries for caption in one.values["captions"]]
        keys = [key for one in summaries for key in one.values["keys"]]
        rows = [row for one in summaries for row in one.arrays["rows"].tolist()]
        words = float(np.mean([len(caption.split()) for caption in captions]))
        shown = tuple(
            GalleryRow(caption, (Picture(row, key, score=words),))
            for caption, key, row in list(zip(captions, keys, rows, strict=True))[: self.options.gallery]
        )
        metrics = {"samples": float(len(captions)), "caption_words": words}
        if results:
            metrics["distance"] = float(np.concatenate([one.arrays["distances"].ravel() for one in results]).mean())
        return Evaluation(
            metrics,
            (Table("Toy captions", "Set", ("Samples", "Words"), (TableRow("all", ("samples", "caption_words")),)),),
            (Gallery("The first toys", "Samples in storage order.", shown),) if shown else (),
        )


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
        logits, target = image @ keys.T, torch.arange(len(image))
        loss = functional.cross_entropy(logits, target)
        backward(loss, final=True)
        agreement = (logits.argmax(1) == target).to(loss.dtype).mean()
        return MicroResult({"loss": loss.detach(), "agreement": agreement.detach()}, {"words": words.detach()})

    def empty_result(self, clock: Clock) -> MicroResult:
        weight = self.model["words"].weight
        zero = weight.new_zeros(())
        return MicroResult({"loss": zero, "agreement": zero}, {"words": weight.new_zeros(0, self._config.width)})

    def end_step(self, clock: Clock, shared: Mapping[str, Any]) -> None:
        import torch

        self.model.queue.copy_(torch.cat([shared["words"].to(self.model.queue.dtype), self.model.queue])[:QUEUE])

    @contextmanager
    def evaluator(self, options: EvaluationOptions) -> Iterator[ToyEvaluator]:
        yield ToyEvaluator(getattr(self, "model", None), ToyOptions.model_validate(options.model_dump()))

    def export(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(self.model.state_dict(), folder / "model.safetensors")


class ToyEntry:
    """Registers the toy."""

    config_type = ToyConfig
    evaluation_type = ToyOptions
    architecture_keys = ("width",)
    related_keys = (("width", "optimizer.learning_rate"),)

    def check(self, config: ToyConfig, batch: BatchShape) -> Iterator[Problem]:
        if config.width > 64:
            yield Problem("width", "must be at most 64.")

    def metrics(self, config: ToyConfig) -> ReportedMetrics:
        return METRICS

    def transform(self, config: ToyConfig) -> ToyTransform:
        return ToyTransform()

    def create(self, config: ToyConfig) -> ToyWorkload:
        return ToyWorkload(config)


ENTRY = ToyEntry()
