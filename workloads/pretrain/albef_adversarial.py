"""VILLA's adversarial steps on ALBEF's fusion objectives.

One perturbation per pair and modality: that of a text is added to the word embeddings of the caption and of its
masked version, that of an image to the image encoder's output tokens.

Shapes: B captions and images, T texts (captions, then masked captions), L text tokens, N image tokens, D text width,
C image width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from workloads.contract import Backward, KeyedRandom
from workloads.objectives.adversarial import (
    AdversarialLosses,
    AdversarialOptions,
    Prediction,
    adversarial_steps,
    start_perturbation,
)
from workloads.objectives.cut import Cut
from workloads.pretrain.albef_config import AdversarialConfig
from workloads.pretrain.albef_fusion import FusionLosses, FusionTask
from workloads.pretrain.albef_model import Encoded


def adversarial_is_active(config: AdversarialConfig, progress: float) -> bool:
    """Return whether adversarial steps run at this share of the training."""
    return config.steps > 0 and config.active[0] <= progress < config.active[1]


@dataclass(frozen=True, slots=True)
class PerturbedFusion:
    """The fusion objectives as a function of a perturbation.

    Args:
        task: the objectives.
        encoded: what to perturb.
    """

    task: FusionTask
    encoded: Encoded

    def __call__(self, modality: str, perturbation: Tensor) -> Prediction:
        """Return loss and logits with [B, L, D] added to the words or [B, N, C] to the image tokens."""
        losses = self._text(perturbation) if modality == "text" else self._image(perturbation)
        return Prediction(losses.total, losses.logits)

    def _text(self, perturbation_BLD: Tensor) -> FusionLosses:
        words_TLD, texts = self.encoded.words_TLD, self.task.texts
        versions = len(words_TLD) // texts.captions
        perturbed_TLD = words_TLD + perturbation_BLD.repeat(versions, 1, 1)
        states_TLD = self.task.student.bert.encode(perturbed_TLD, texts.mask_TL)
        return self.task(states_TLD, self.encoded.image_BNC)

    def _image(self, perturbation_BNC: Tensor) -> FusionLosses:
        return self.task(self.encoded.states_TLD, self.encoded.image_BNC + perturbation_BNC)


def train_adversarially(
    task: FusionTask,
    encoded: Encoded,
    clean: FusionLosses,
    config: AdversarialConfig,
    draw: KeyedRandom,
    backward: Backward,
) -> tuple[Tensor, AdversarialLosses]:
    """Run the perturbed passes; return a remainder for the clean loss, and the adversarial losses.

    Encoders and the clean pass are differentiated once, by the caller's `backward` of clean loss plus remainder.
    """
    cut = Cut((*encoded, *clean.logits), backward)
    shared = Encoded(*cut.leaves[:3])
    losses = adversarial_steps(
        PerturbedFusion(task, shared),
        cut.leaves[3:],
        _starts(shared, task.texts.captions, config, draw),
        options_of(config),
        cut.backward,
    )
    return cut.remainder(), losses


def options_of(config: AdversarialConfig) -> AdversarialOptions:
    """Return the options of the adversarial loop."""
    return AdversarialOptions(
        steps=config.steps,
        step_size=config.step_size,
        norm=config.norm,
        max_norm=config.max_norm,
        init_radius=config.init_radius if config.init == "uniform" else 0.0,
        kl_weight=config.kl_weight,
    )


def _starts(encoded: Encoded, captions: int, config: AdversarialConfig, draw: KeyedRandom) -> Mapping[str, Tensor]:
    options = options_of(config)
    perturbed = {"text": encoded.words_TLD[:captions], "image": encoded.image_BNC}
    return {
        modality: start_perturbation(perturbed[modality].detach(), options, draw.child("perturb", modality))
        for modality in config.perturb
    }
