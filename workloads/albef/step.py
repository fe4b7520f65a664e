"""One micro-batch of ALBEF training, with VILLA's adversarial steps while they are active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from workloads.albef.adversarial import train_adversarially
from workloads.albef.config import AlbefConfig
from workloads.albef.entry import step_metric_names
from workloads.albef.fusion import FusionObjectives, TextBatch, prepare_texts
from workloads.albef.model import AlbefModel, EncoderOutputs, Encoders
from workloads.contract import Backward, Batch, Clock, MicroResult
from workloads.nn.bert import PairIndices, TokenSelection
from workloads.objectives.contrastive import (
    Keys,
    Similarities,
    at_least_float32,
    contrastive_loss,
    contrastive_targets,
    ramped_alpha,
    similarities,
)
from workloads.objectives.matching import RandomChoices, matching_pairs


@dataclass(frozen=True, slots=True)
class MicroStep:
    """Trains on one micro-batch.

    Args:
        model: student, teacher and queue.
        config: the recipe's part.
        clock: where training stands.
        draws: the random choices.
    """

    model: AlbefModel
    config: AlbefConfig
    clock: Clock
    choices: RandomChoices

    def run(self, batch: Batch, backward: Backward) -> MicroResult:
        """Call `backward` on the losses of a micro-batch and return its metrics and momentum features."""
        student, config = self.model.student, self.config
        student.clamp_temperature(config.contrastive.temperature_range)
        texts = prepare_texts(batch, self.choices if config.masking.enabled else None, config.compute)
        teacher = teacher_outputs(self.model.teacher, config, batch["image"], texts, self.alpha)
        encoded = student.encode(batch["image"], texts.input_ids_TL, texts.mask_TL)
        compared = self._contrast(encoded, teacher)
        task = FusionObjectives(student, texts, self._pairs(compared), teacher.words_MV, self.alpha)
        metrics = self._train(task, batch["image"], encoded, compared, backward)
        return MicroResult(metrics, self._shared(teacher.features))

    @property
    def alpha(self) -> float:
        """Weight of the soft targets at this point of training."""
        distillation = self.config.distillation
        return ramped_alpha(distillation.alpha, distillation.ramp_epochs, self.clock.epoch)

    def _contrast(self, encoded: EncoderOutputs, teacher: TeacherOutputs) -> Contrast:
        if teacher.features is None or not self.config.contrastive.enabled:
            return no_contrast(encoded)
        alpha = self.alpha if self.config.distillation.contrastive else 0.0
        return contrast(self.model, encoded, teacher.features, alpha)

    def _pairs(self, compared: Contrast) -> PairIndices | None:
        if not self.config.matching.enabled or len(compared.own.image_to_text) < 2:
            return None
        return matching_pairs(self.choices.negatives(compared.own))

    def _train(
        self, task: FusionObjectives, image_B3HW: Tensor, encoded: EncoderOutputs, compared: Contrast, backward: Backward
    ) -> Mapping[str, Tensor]:
        clean = task(encoded.states_TLD, encoded.image_BNC)
        loss = compared.loss + clean.total
        metrics = {
            "loss": loss,
            "loss_itc": compared.loss,
            "loss_itm": clean.matching,
            "loss_mlm": clean.masked_language,
            "itm_skipped": loss.new_tensor(float(task.pairs is None)),
            "alpha": loss.new_tensor(self.alpha),
            "temperature": task.student.temp,
        }
        options = self.config.adversarial
        if options.is_active(self.clock.progress):
            fusion, adversarial = train_adversarially(
                task, image_B3HW, encoded, clean, options, self.clock.draw, backward
            )
            loss = compared.loss + fusion
            metrics |= {"loss_adversarial": adversarial.task, "adversarial_divergence": adversarial.divergence}
        if loss.requires_grad:
            backward(loss, final=True)
        return {name: metrics[name].detach().clone() for name in step_metric_names(self.config, self.clock.progress)}

    def _shared(self, features: MomentumFeatures | None) -> Mapping[str, Tensor]:
        if features is None or not self.config.contrastive.enabled:
            return {}
        return {"image_features": features.image_BE, "text_features": features.text_BE}


# The contrastive objective of one micro-batch.
#
# Shapes: B captions and images, T texts (captions, then masked captions).


class Contrast(NamedTuple):
    """Outcome of comparing images with texts.

    Args:
        loss: 0 when the objective is off.
        own: similarities to the micro-batch's own keys, [B, B] each; even when the objective is off.
    """

    loss: Tensor
    own: Similarities


def no_contrast(encoded: EncoderOutputs) -> Contrast:
    """Return what stands for the objective when it is off."""
    image_BNC = encoded.image_BNC
    even_BB = image_BNC.new_zeros(len(image_BNC), len(image_BNC))
    return Contrast(image_BNC.new_zeros(()), Similarities(even_BB, even_BB))


def contrast(model: AlbefModel, encoded: EncoderOutputs, features: MomentumFeatures, alpha: float) -> Contrast:
    """Compare student with momentum features of the micro-batch and the queue.

    Args:
        model: student and queue.
        encoded: texts and images; the first B texts are the captions.
        features: the teacher's.
        alpha: weight of the teacher's similarities in the targets.
    """
    student, captions = model.student, len(encoded.image_BNC)
    image_keys = Keys(features.image_BE, model.queue.image_queue)
    text_keys = Keys(features.text_BE, model.queue.text_queue)
    image_BE = student.image_embedding(encoded.image_BNC)
    text_BE = student.text_embedding(encoded.states_TLD[:captions])
    compared = similarities(image_BE, text_BE, image_keys, text_keys, student.temp)
    with torch.no_grad():
        taught = similarities(*features, image_keys, text_keys, student.temp) if alpha else compared
    loss = contrastive_loss(compared, contrastive_targets(taught, alpha))
    return Contrast(loss, Similarities(*(logits[:, :captions].detach() for logits in compared)))


# What the momentum teacher says about a micro-batch, without gradients.
#
# Shapes: B captions and images, T texts, M masked tokens, P masked tokens and filling, E embedding width, V vocabulary.


class MomentumFeatures(NamedTuple):
    """Unit vectors of images and captions, [B, E] each: contrastive keys now, entries of the queue later."""

    image_BE: Tensor
    text_BE: Tensor


class TeacherOutputs(NamedTuple):
    """What the teacher said; None where the recipe has no use for it.

    Args:
        features: of the images and captions.
        words_MV: probabilities of the masked tokens.
    """

    features: MomentumFeatures | None
    words_MV: Tensor | None


@torch.no_grad()
def teacher_outputs(
    teacher: Encoders, config: AlbefConfig, image_B3HW: Tensor, texts: TextBatch, alpha: float
) -> TeacherOutputs:
    """Run the parts of the teacher that the recipe needs at this weight of its targets."""
    asks_words = texts.masked is not None and config.distillation.masked_language and alpha > 0
    if not (config.contrastive.enabled or asks_words):
        return TeacherOutputs(None, None)
    rows = slice(None) if asks_words else slice(texts.captions)
    tokens_BNC = teacher.image_tokens(image_B3HW)
    states_TLD = teacher.bert.encode(teacher.bert.words(texts.input_ids_TL[rows]), texts.mask_TL[rows])
    captions_BLD = states_TLD[: texts.captions]
    return TeacherOutputs(
        MomentumFeatures(teacher.image_embedding(tokens_BNC), teacher.text_embedding(captions_BLD)),
        _masked_words(teacher, states_TLD, tokens_BNC, texts) if asks_words else None,
    )


def _masked_words(teacher: Encoders, states_TLD: Tensor, tokens_BNC: Tensor, texts: TextBatch) -> Tensor | None:
    if texts.masked is None:
        return None
    below = slice(texts.captions, None)
    meetings = PairIndices.one_to_one(texts.captions, tokens_BNC.device)
    wanted = TokenSelection(texts.masked.caption, texts.masked.position)
    fused_PD = teacher.bert.fuse(states_TLD[below], texts.mask_TL[below], tokens_BNC, meetings, wanted)
    logits_MV = teacher.text_encoder.word_logits(fused_PD)[: len(texts.masked.label)]
    return at_least_float32(logits_MV).softmax(1)
