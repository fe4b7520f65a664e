"""One micro-batch of ALBEF training, with VILLA's adversarial steps while they are active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from workloads.contract import Backward, Batch, Clock, MicroResult
from workloads.nn.bert import Meetings
from workloads.objectives.distillation import ramped_alpha
from workloads.objectives.draws import Draws
from workloads.objectives.matching import matching_pairs
from workloads.pretrain.albef_adversarial import train_adversarially
from workloads.pretrain.albef_config import AlbefConfig
from workloads.pretrain.albef_contrast import Contrast, contrast, no_contrast
from workloads.pretrain.albef_fusion import FusionTask
from workloads.pretrain.albef_metrics import step_metric_names
from workloads.pretrain.albef_model import AlbefModel, Encoded
from workloads.pretrain.albef_teacher import MomentumFeatures, TeacherOutputs, ask_teacher
from workloads.pretrain.albef_texts import read_texts


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
    draws: Draws

    def run(self, batch: Batch, backward: Backward) -> MicroResult:
        """Call `backward` on the losses of a micro-batch and return its metrics and momentum features."""
        student, config = self.model.student, self.config
        student.clamp_temperature(config.contrastive.temperature_range)
        texts = read_texts(batch, self.draws if config.masking.enabled else None, config.compute)
        teacher = ask_teacher(self.model.teacher, config, batch["image"], texts, self.alpha)
        encoded = student.encode(batch["image"], texts.input_ids_TL, texts.mask_TL)
        compared = self._contrast(encoded, teacher)
        task = FusionTask(student, texts, self._pairs(compared), teacher.words_MV, self.alpha)
        metrics = self._train(task, batch["image"], encoded, compared, backward)
        return MicroResult(metrics, self._shared(teacher.features))

    @property
    def alpha(self) -> float:
        """Weight of the soft targets at this point of training."""
        distillation = self.config.distillation
        return ramped_alpha(distillation.alpha, distillation.ramp_epochs, self.clock.epoch)

    def _contrast(self, encoded: Encoded, teacher: TeacherOutputs) -> Contrast:
        if teacher.features is None or not self.config.contrastive.enabled:
            return no_contrast(encoded)
        alpha = self.alpha if self.config.distillation.contrastive else 0.0
        return contrast(self.model, encoded, teacher.features, alpha)

    def _pairs(self, compared: Contrast) -> Meetings | None:
        if not self.config.matching.enabled or len(compared.own.image_to_text) < 2:
            return None
        return matching_pairs(self.draws.negatives(compared.own))

    def _train(
        self, task: FusionTask, image_B3HW: Tensor, encoded: Encoded, compared: Contrast, backward: Backward
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
