"""The `albef` workload: ALBEF (Li et al. 2021) with VILLA adversarial steps (Gan et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from workloads.albef.config import AlbefConfig
from workloads.albef.entry import step_metric_names
from workloads.albef.model import AlbefInference, AlbefModel, apply_compute
from workloads.albef.step import MicroStep
from workloads.contract import (
    Backward,
    Batch,
    Clock,
    Evaluation,
    EvaluationOptions,
    KeyedRandom,
    MicroResult,
    ParameterGroup,
    Sample,
    WorkloadError,
)
from workloads.nn.cpu_linear import cpu_linear
from workloads.nn.momentum import update_teacher
from workloads.objectives.matching import RandomChoices, KeyedChoices


class AlbefWorkload:
    """Trains one ALBEF model; see `workloads.contract.Workload` for when each method is called.

    Args:
        config: the recipe's part.
        draws: makes the random choices of a micro-batch from its clock; keyed by `clock.draw` unless given.
    """

    def __init__(self, config: AlbefConfig, choices: Callable[[Clock], RandomChoices] | None = None) -> None:
        self.config = config
        self.choices = choices or self._keyed_choices
        self._model: AlbefModel | None = None

    @property
    def model(self) -> AlbefModel:
        """The built model.

        Raises:
            WorkloadError: before `build`.
        """
        if self._model is None:
            raise WorkloadError("the model is not built yet: call build(device, draw) first")
        return self._model

    def build(self, device: torch.device, draw: KeyedRandom, pretrained: bool = True) -> AlbefModel:
        """Create student, teacher and queue.

        Args:
            device: where they live.
            draw: randomness of untrained weights.
            pretrained: whether student and teacher start from the recipe's weights.

        Raises:
            WorkloadError: when pretrained weights cannot be found or do not fit.
        """
        from workloads.interop.pretrained import load_initial_weights

        model = AlbefModel(self.config, draw)
        if pretrained:
            load_initial_weights(model.student, self.config.model)
            model.init_teacher()
        self._model = model.to(device)
        apply_compute(self._model, self.config.compute)
        return self._model

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return the student's parameters: 1-d ones and biases without weight decay, all others with.

        So position embeddings and the class token decay, as in the official code; the temperature does on request.
        """
        named = list(self.model.student.named_parameters())
        spared = {name for name, parameter in named if parameter.ndim == 1 or name.endswith(".bias")}
        if not self.config.contrastive.decay_temperature:
            spared.add("temp")
        return (
            ParameterGroup("no_decay", [parameter for name, parameter in named if name in spared], weight_decay=False),
            ParameterGroup("decay", [parameter for name, parameter in named if name not in spared], weight_decay=True),
        )

    def shard_units(self) -> Sequence[nn.Module]:
        """Return the image encoder's blocks and BERT's layers, of student and teacher."""
        encoders = (self.model.student, self.model.teacher)
        stacks = [
            stack for own in encoders for stack in (own.visual_encoder.get_submodule("blocks"), own.bert.encoder.layer)
        ]
        return [block for stack in stacks for block in stack.children()]

    def begin_step(self, clock: Clock) -> None:
        """Move the teacher towards the student that the last step left."""
        self.model.student.train()
        self.model.teacher.train(self.config.distillation.teacher_dropout)
        update_teacher(self.model.teacher, self.model.student, self.config.distillation.momentum)

    def micro_step(self, batch: Batch, clock: Clock, backward: Backward) -> MicroResult:
        """Train on one micro-batch: `image` [B, 3, H, W], `input_ids` [B, max_tokens] and `length` [B]."""
        with self._linear(batch["image"].device):
            return MicroStep(self.model, self.config, clock, self.choices(clock)).run(batch, backward)

    def empty_result(self, clock: Clock) -> MicroResult:
        """Return zero metrics and momentum features without rows."""
        zero, features = self.model.queue.image_queue.new_zeros(()), self.model.queue.image_queue.T[:0]
        shared = {"image_features": features, "text_features": features} if self.config.contrastive.enabled else {}
        return MicroResult(dict.fromkeys(step_metric_names(self.config, clock.progress), zero), shared)

    def end_step(self, clock: Clock, shared: Mapping[str, Tensor]) -> None:
        """Put the step's momentum features into the queue, in order."""
        if self.config.contrastive.enabled:
            self.model.queue.enqueue(shared["image_features"], shared["text_features"])

    def evaluate(self, samples: Sequence[Sample], options: EvaluationOptions) -> Evaluation:
        """Measure image-text retrieval on held-out samples."""
        from workloads.downstream.retrieval import evaluate_retrieval
        from workloads.transforms.pairs import EvaluationTransform

        transform = EvaluationTransform(self.config.model.image_size, self.config.text)
        with AlbefInference.eval_mode(self.model.student, self.config.model) as inference:
            return evaluate_retrieval(inference, transform, samples, options)

    def export(self, folder: Path) -> None:
        """Write `model.safetensors` (the student), `config.json` and `tokenizer.json` into an empty folder."""
        from workloads.interop.export import save_exported

        save_exported(folder, self.model.student, self.config)

    def _linear(self, device: torch.device) -> AbstractContextManager[object]:
        """Return what linear maps run in; layers that are computed again are so outside of it, and have to agree."""
        return nullcontext() if self.config.compute.gradient_checkpointing else cpu_linear(device)

    def _keyed_choices(self, clock: Clock) -> RandomChoices:
        config = self.config
        return KeyedChoices(
            clock.draw, config.model.text.vocabulary, config.masking.probability, config.matching.hard_negatives
        )
