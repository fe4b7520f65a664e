"""One micro-batch of ALBEF training, with VILLA's adversarial steps while they are active.

Shapes: B captions and images, T texts (captions, then masked captions), M masked tokens, P masked tokens with filling,
E embedding width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from workloads.albef.adversarial import train_adversarially
from workloads.albef.config import PairsConfig
from workloads.albef.fusion import FusionObjectives, TextBatch, prepare_texts
from workloads.albef.locking import FirstOutputs
from workloads.albef.model import AlbefModel, EncoderOutputs
from workloads.contract import Backward, Batch, Clock, MicroResult
from workloads.nn.bert import PairIndices, TokenSelection
from workloads.objectives.contrastive import (
    Keys,
    Similarities,
    at_least_float32,
    contrastive_loss,
    contrastive_targets,
    ramped_alpha,
    same_image,
    similarities,
)
from workloads.objectives.matching import RandomChoices, matching_pairs


@dataclass(frozen=True, slots=True)
class MicroStep:
    """Trains on one micro-batch.

    Args:
        model: student, teacher and queue.
        config: the workload's recipe keys.
        clock: progress of the training.
        choices: the random choices.
    """

    model: AlbefModel
    config: PairsConfig
    clock: Clock
    choices: RandomChoices

    def run(self, batch: Batch, backward: Backward) -> MicroResult:
        """Call `backward` on the losses of a micro-batch and return its metrics and momentum features."""
        student, config = self.model.student, self.config
        if config.contrastive.temperature_range is not None:
            student.clamp_temperature(config.contrastive.temperature_range)
        texts = prepare_texts(batch, self.choices if config.mask_probability else None, config.compute)
        first = self.model.locked.first_outputs(student, batch["image"], texts.input_ids_TL, texts.mask_TL)
        teacher = teacher_outputs(self.model, config, batch["image"], texts, first, self.alpha)
        encoded = encoder_outputs(self.model, first, texts)
        image_id_B = batch["image_id"] if config.matches_by_image else None
        contrastive = self._contrast(encoded, texts, teacher, image_id_B)
        pairs = self._pairs(contrastive.in_batch, image_id_B)
        objectives = FusionObjectives(student, texts, pairs, teacher.words_MV, self.alpha)
        metrics = self._train(objectives, batch["image"], encoded, contrastive, backward)
        return MicroResult(metrics, self._shared(teacher.features, image_id_B))

    @property
    def alpha(self) -> float:
        """Weight of the soft targets at this point of the training."""
        distillation = self.config.distillation
        return ramped_alpha(distillation.alpha, distillation.ramp_epochs, self.clock.epoch)

    def _contrast(
        self, encoded: EncoderOutputs, texts: TextBatch, teacher: TeacherOutputs, image_id_B: Tensor | None
    ) -> Contrast:
        if teacher.features is None or not self.config.contrastive.enabled:
            return no_contrast(encoded)
        alpha = self.alpha if self.config.distillation.contrastive else 0.0
        return contrast(self.model, encoded, texts, teacher.features, alpha, image_id_B)

    def _pairs(self, in_batch: Similarities, image_id_B: Tensor | None) -> PairIndices | None:
        """Return the pairs to match; none where all rows are of one image, which leaves no negative."""
        rows, device = len(in_batch.image_to_text), in_batch.image_to_text.device
        if not self.config.matching.enabled or rows < 2:
            return None
        if image_id_B is None:
            match_BB = torch.eye(rows, dtype=torch.bool, device=device)
        else:
            match_BB = same_image(image_id_B, image_id_B)
            if match_BB.all():
                return None
        return matching_pairs(self.choices.negatives(in_batch, match_BB))

    def _train(
        self,
        objectives: FusionObjectives,
        image_B3HW: Tensor,
        encoded: EncoderOutputs,
        contrastive: Contrast,
        backward: Backward,
    ) -> Mapping[str, Tensor]:
        clean = objectives(encoded.states_TLD, encoded.image_BNC)
        loss = contrastive.loss + clean.total
        metrics = {
            "loss": loss,
            "loss_itc": contrastive.loss,
            "loss_itm": clean.matching,
            "loss_mlm": clean.masked_language,
            "itm_skipped": loss.new_tensor(float(objectives.pairs is None)),
            "alpha": loss.new_tensor(self.alpha),
            "temperature": objectives.student.temp,
        }
        options = self.config.adversarial
        if options.is_active(self.clock.progress):
            fusion_loss, adversarial = train_adversarially(
                objectives, image_B3HW, encoded, clean, options, self.clock.draw, backward
            )
            loss = contrastive.loss + fusion_loss
            metrics |= {"loss_adversarial": adversarial.task, "adversarial_divergence": adversarial.divergence}
        if loss.requires_grad:
            backward(loss, final=True)
        return {name: metrics[name].detach().clone() for name in self.config.step_metric_names(self.clock.progress)}

    def _shared(self, features: MomentumFeatures | None, image_id_B: Tensor | None) -> Mapping[str, Tensor]:
        if features is None or not self.config.contrastive.enabled:
            return {}
        shared = {"image_features": features.image_BE, "text_features": features.text_BE}
        return shared if image_id_B is None else shared | {"image_id": image_id_B}


def encoder_outputs(model: AlbefModel, first: FirstOutputs, texts: TextBatch) -> EncoderOutputs:
    """Return the student's outputs of the encoders, of which the first are computed already."""
    states_TLD = model.locked.student_states(model.student, first, texts.mask_TL)
    tokens_BNC = model.student.fusion_tokens(first.images)
    return EncoderOutputs(first.words_TLD, states_TLD, tokens_BNC, first.images.pooled_BP)


class Contrast(NamedTuple):
    """Result of the contrastive objective.

    Args:
        loss: 0 when the objective is off.
        in_batch: similarities to the micro-batch's own keys, [B, B] each; all equal when the objective is off.
    """

    loss: Tensor
    in_batch: Similarities


def no_contrast(encoded: EncoderOutputs) -> Contrast:
    """Return the result when the objective is off."""
    image_BNC = encoded.image_BNC
    equal_BB = image_BNC.new_zeros(len(image_BNC), len(image_BNC))
    return Contrast(image_BNC.new_zeros(()), Similarities(equal_BB, equal_BB))


def contrast(
    model: AlbefModel,
    encoded: EncoderOutputs,
    texts: TextBatch,
    features: MomentumFeatures,
    alpha: float,
    image_id_B: Tensor | None = None,
) -> Contrast:
    """Compare the student's features with momentum features of the micro-batch and the queue.

    Args:
        model: student and queue.
        encoded: the student's outputs for texts and images.
        texts: the first B of them are the captions.
        features: the teacher's.
        alpha: weight of the teacher's similarities in the targets.
        image_id_B: with it all keys of an image are right answers, in the micro-batch and in the queue.
    """
    student, captions = model.student, texts.captions
    image_keys = Keys(features.image_BE, model.queue.image_queue)
    text_keys = Keys(features.text_BE, model.queue.text_queue)
    image_BE = student.image_embedding(encoded.pooled_BP)
    text_BE = student.text_embedding(encoded.states_TLD[:captions], texts.mask_TL[:captions])
    of_student = similarities(image_BE, text_BE, image_keys, text_keys, student.temp)
    with torch.no_grad():
        of_teacher = similarities(*features, image_keys, text_keys, student.temp) if alpha else of_student
    positive_BK = None if image_id_B is None else same_image(image_id_B, model.queue.key_ids(image_id_B))
    loss = contrastive_loss(of_student, contrastive_targets(of_teacher, alpha, positive_BK))
    return Contrast(loss, Similarities(*(logits[:, :captions].detach() for logits in of_student)))


class MomentumFeatures(NamedTuple):
    """The teacher's unit vectors of images and captions, [B, E] each: keys of this step, later entries of the queue."""

    image_BE: Tensor
    text_BE: Tensor


class TeacherOutputs(NamedTuple):
    """The momentum teacher's outputs; None where the recipe does not need them.

    Args:
        features: of the images and captions.
        words_MV: probabilities of the masked tokens.
    """

    features: MomentumFeatures | None
    words_MV: Tensor | None


@torch.no_grad()
def teacher_outputs(
    model: AlbefModel, config: PairsConfig, image_B3HW: Tensor, texts: TextBatch, first: FirstOutputs, alpha: float
) -> TeacherOutputs:
    """Run the parts of the teacher that the recipe needs when its targets have this weight."""
    distils_words = texts.masked is not None and config.distils_words and alpha > 0
    if not (config.contrastive.enabled or distils_words):
        return TeacherOutputs(None, None)
    rows = slice(None) if distils_words else slice(texts.captions)
    teacher, locked = model.teacher, model.locked
    images = locked.teacher_images(teacher, image_B3HW, first)
    states_TLD = locked.teacher_states(teacher, texts.input_ids_TL, texts.mask_TL, first, rows)
    captions_BLD, mask_BL = states_TLD[: texts.captions], texts.mask_TL[: texts.captions]
    return TeacherOutputs(
        MomentumFeatures(teacher.image_embedding(images.pooled_BP), teacher.text_embedding(captions_BLD, mask_BL)),
        _masked_words(model, states_TLD, teacher.fusion_tokens(images), texts) if distils_words else None,
    )


def _masked_words(model: AlbefModel, states_TLD: Tensor, tokens_BNC: Tensor, texts: TextBatch) -> Tensor | None:
    if texts.masked is None:
        return None
    masked_texts, teacher = slice(texts.captions, None), model.teacher
    pairs = PairIndices.one_to_one(texts.captions, tokens_BNC.device)
    tokens = TokenSelection(texts.masked.caption, texts.masked.position)
    fused_PD = teacher.bert.fuse(states_TLD[masked_texts], texts.mask_TL[masked_texts], tokens_BNC, pairs, tokens)
    words_VD = model.locked.teacher_words(model.student)
    logits_MV = teacher.text_encoder.word_logits(fused_PD, words_VD)[: len(texts.masked.label)]
    return at_least_float32(logits_MV).softmax(1)
