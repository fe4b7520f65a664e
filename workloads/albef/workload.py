"""ALBEF (Li et al. 2021) on image-text pairs, with VILLA adversarial steps (Gan et al. 2020): the `albef` workload.

Fine-tuning for retrieval is the same training with other options; see `workloads/albef/retrieval.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from workloads.albef.config import PairsConfig
from workloads.albef.model import AlbefInference, AlbefModel, apply_compute
from workloads.albef.step import MicroStep
from workloads.contract import (
    Backward,
    Batch,
    Clock,
    EvaluationOptions,
    Evaluator,
    InitialWeights,
    KeyedRandom,
    MicroResult,
    ParameterGroup,
    WorkloadError,
)
from workloads.interop.albef_layout import is_no_decay
from workloads.interop.export import save_exported
from workloads.interop.pretrained import load_initial_weights
from workloads.nn.cpu_linear import cpu_linear
from workloads.nn.momentum import update_teacher
from workloads.objectives.matching import KeyedChoices, RandomChoices

PROJECTIONS = ("vision_proj.", "text_proj.", "temp")
"""Beginnings of the names of what the contrastive objective alone trains."""


class AlbefWorkload:
    """Trains one ALBEF model; see `workloads.contract.Workload` for when each method is called.

    Args:
        config: the workload's recipe keys.
        choices: returns the random choices of the micro-batch at a clock; keyed by `clock.draw` unless given.
    """

    def __init__(self, config: PairsConfig, choices: Callable[[Clock], RandomChoices] | None = None) -> None:
        self.config = config
        self.choices = choices or self._keyed_choices
        self._model: AlbefModel | None = None
        self.initial_weights: Sequence[InitialWeights] = ()

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
            device: of the model.
            draw: key of the initial weights.
            pretrained: whether student and teacher start from the recipe's pretrained weights.

        Raises:
            WorkloadError: when pretrained weights cannot be found or do not fit.
        """
        model = AlbefModel(self.config, draw)
        if pretrained:
            self.initial_weights = load_initial_weights(model.student, self.config)
            model.init_teacher()
        self._model = model.to(device)
        apply_compute(self._model, self.config.compute)
        return self._model

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Return the student's parameters that are not locked: 1-d ones and biases without weight decay, others with.

        Projections and temperature are apart where they have a learning rate of their own.

        Position embeddings and the class token therefore decay, as in the official code; the temperature does when
        `contrastive.decay_temperature` is set.
        """
        trained = {name: value for name, value in self.model.student.named_parameters() if value.requires_grad}
        scale = self.config.contrastive.learning_rate_scale
        if scale == 1:
            return self._groups("", trained)
        apart = {name: value for name, value in trained.items() if name.startswith(PROJECTIONS)}
        others = {name: value for name, value in trained.items() if name not in apart}
        return [*self._groups("", others), *self._groups("projections_", apart, scale)]

    def _groups(self, prefix: str, named: Mapping[str, nn.Parameter], scale: float = 1.0) -> list[ParameterGroup]:
        decayed = [value for name, value in named.items() if self._decays(name, value)]
        spared = [value for name, value in named.items() if not self._decays(name, value)]
        return [
            ParameterGroup(f"{prefix}no_decay", spared, weight_decay=False, learning_rate_scale=scale),
            ParameterGroup(f"{prefix}decay", decayed, weight_decay=True, learning_rate_scale=scale),
        ]

    def _decays(self, name: str, parameter: nn.Parameter) -> bool:
        if name == "temp":
            return self.config.contrastive.decay_temperature
        return not is_no_decay(name, parameter.shape)

    def shard_units(self) -> Sequence[nn.Module]:
        """Return the image encoder's blocks and BERT's layers, of student and teacher."""
        return [*self.model.vision_blocks, *self.model.bert_layers]

    def begin_step(self, clock: Clock) -> None:
        """Update the teacher with the student's weights after the last step.

        Some of timm's encoders keep in evaluation mode what they once computed from their weights, until it ends.
        """
        self.model.student.train()
        self.model.teacher.train()
        self.model.teacher.train(self.config.distillation.teacher_dropout)
        update_teacher(self.model.teacher, self.model.student, self.config.distillation.momentum)

    def micro_step(self, batch: Batch, clock: Clock, backward: Backward) -> MicroResult:
        """Train on one micro-batch: `image` [B, 3, H, W], `input_ids` [B, max_tokens] and `length` [B].

        Where pairs match by their image, `image_id` [B] says which it is.
        """
        with self._linear_context(batch["image"].device):
            return MicroStep(self.model, self.config, clock, self.choices(clock)).run(batch, backward)

    def empty_result(self, clock: Clock) -> MicroResult:
        """Return zero metrics and momentum features without rows."""
        queue = self.model.queue
        zero, features = queue.image_queue.new_zeros(()), queue.image_queue.T[:0]
        shared = {"image_features": features, "text_features": features} if self.config.contrastive.enabled else {}
        if shared and self.config.matches_by_image:
            shared["image_id"] = queue.idx_queue[0, :0]
        return MicroResult(dict.fromkeys(self.config.step_metric_names(clock.progress), zero), shared)

    def end_step(self, clock: Clock, shared: Mapping[str, Tensor]) -> None:
        """Enqueue the step's momentum features, in order."""
        if self.config.contrastive.enabled:
            self.model.queue.enqueue(shared["image_features"], shared["text_features"], shared.get("image_id"))

    @contextmanager
    def evaluator(self, options: EvaluationOptions) -> Iterator[Evaluator]:
        """Return what measures image-text retrieval, with `RetrievalOptions`."""
        from workloads.downstream.retrieval import RetrievalEvaluator
        from workloads.downstream.retrieval_options import RetrievalOptions
        from workloads.transforms.pairs import EvaluationTransform

        options = RetrievalOptions.model_validate(options.model_dump())
        transform = EvaluationTransform(self.config.model.image_hw, self.config.text)
        if self._model is None:
            yield RetrievalEvaluator(None, transform, options)
            return
        with AlbefInference.eval_mode(self._model.student, self.config.model) as inference:
            yield RetrievalEvaluator(inference, transform, options)

    def export(self, folder: Path) -> None:
        """Write `model.safetensors` (the student), `config.json` and `tokenizer.json` into an empty folder."""
        save_exported(folder, self.model.student, self.config)

    def _linear_context(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context that linear maps run in.

        With gradient checkpointing torch recomputes layers outside of it, so that it would give other results there.
        """
        return nullcontext() if self.config.compute.gradient_checkpointing else cpu_linear(device)

    def _keyed_choices(self, clock: Clock) -> RandomChoices:
        config = self.config
        return KeyedChoices(
            clock.draw, config.model.text.vocabulary, config.mask_probability, config.matching.hard_negatives
        )
