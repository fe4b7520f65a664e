"""VILLA's adversarial pre-training (Gan et al. 2020) on ALBEF.

VILLA perturbs the objectives whose predictions come out of the multimodal transformer: masked language, matching and
masked regions. ALBEF's fusion layers have the first two, so those are trained and held stable under perturbations.
The contrastive objective compares unimodal features with the teacher's and sees the clean inputs alone; encoders
still learn from the perturbed passes through what these read of them.

Shapes: B captions and images, L text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from workloads.albef.config import AdversarialConfig
from workloads.albef.fusion import FusionLosses, FusionObjectives
from workloads.albef.model import EncoderOutputs, Student
from workloads.contract import Backward, KeyedRandom
from workloads.nn.vision import embed_patches, encode_patches
from workloads.objectives.adversarial import (
    AdversarialLosses,
    AdversarialOptions,
    AscentOptions,
    DetachedBoundary,
    Perturbations,
    Prediction,
    adversarial_steps,
    log_probabilities,
    init_perturbation,
)


def train_adversarially(
    task: FusionObjectives,
    image_B3HW: Tensor,
    encoded: EncoderOutputs,
    clean: FusionLosses,
    config: AdversarialConfig,
    draw: KeyedRandom,
    backward: Backward,
) -> tuple[Tensor, AdversarialLosses]:
    """Run the perturbed passes; return what the fusion objectives leave to differentiate, and the adversarial losses.

    Encoders and the clean pass are differentiated once, by the caller's `backward` of the first.

    Args:
        task: the objectives.
        image_B3HW: the images, read when patches are perturbed.
        encoded: texts and images.
        clean: outcome of the clean pass.
        config: the recipe's part.
        draw: the key of the first perturbations.
        backward: accumulates gradients.
    """
    if not clean.logits:
        return clean.total, AdversarialLosses(clean.total, clean.total)
    patches = _patches(task.student, image_B3HW, config)
    predictions = log_probabilities(clean.logits)
    cut = DetachedBoundary((*encoded, *patches, *predictions), backward)
    inputs, stable = cut.leaves[: -len(predictions)], cut.leaves[-len(predictions) :]
    perturbed = PerturbedFusion(task, EncoderOutputs(*inputs[:3]), *inputs[3:])
    starts = _starts(perturbed, config, draw)
    losses = adversarial_steps(perturbed, stable, starts, options_of(config), cut.backward)
    remainder = cut.remainder()
    return remainder + clean.total if config.clean_loss else remainder, losses


def options_of(config: AdversarialConfig) -> AdversarialOptions:
    """Return the options of the adversarial loop."""
    return AdversarialOptions(
        steps=config.steps,
        ascent=AscentOptions(config.step_size, config.norm, config.max_norm),
        form=config.form,
        kl_weight=config.kl_weight,
        kl_reduction=config.kl_reduction,
    )


def _patches(student: Student, image_B3HW: Tensor, config: AdversarialConfig) -> tuple[Tensor, ...]:
    if config.image_at == "tokens" or "image" not in config.perturb:
        return ()
    return (embed_patches(student.visual_encoder, student.pixels(image_B3HW)),)


def _starts(perturbed: PerturbedFusion, config: AdversarialConfig, draw: KeyedRandom) -> Mapping[str, Tensor]:
    texts, radius = perturbed.task.texts, config.init_radius if config.init == "uniform" else 0.0
    real = {"text": texts.mask_TL[: texts.captions]}
    return {
        modality: init_perturbation(
            perturbed.inputs[modality].detach(), radius, draw.child("perturb", modality), real.get(modality)
        )
        for modality in config.perturb
    }


# ALBEF's fusion objectives as a function of perturbations in embedding space.
#
# A text's perturbation is added to the word embeddings of the caption and of its masked version; an image's to the
# image encoder's output tokens, or to its patch embeddings before class token and positions.
#
# Shapes: B captions and images, T texts (captions, then masked captions), L text tokens, N image tokens, P patches,
# D text width, C image width.


@dataclass(frozen=True, slots=True)
class PerturbedFusion:
    """The fusion objectives under perturbations; of the encoders, a pass re-runs those that read a perturbed input.

    Args:
        task: the objectives.
        encoded: what to perturb, and what stands in for what is not perturbed.
        patches_BPC: patch embeddings to perturb instead of the image tokens.
    """

    task: FusionObjectives
    encoded: EncoderOutputs
    patches_BPC: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What perturbations are added to, by modality: words [B, L, D], image tokens [B, N, C] or patches."""
        words_BLD = self.encoded.words_TLD[: self.task.texts.captions]
        return {"text": words_BLD, "image": self.encoded.image_BNC if self.patches_BPC is None else self.patches_BPC}

    def __call__(self, perturbations: Perturbations) -> Prediction:
        """Return loss and logits with the perturbations of `text` and `image`, each shaped as its input."""
        states_TLD, image_BNC = self._states(perturbations.get("text")), self._image(perturbations.get("image"))
        losses = self.task(states_TLD, image_BNC)
        return Prediction(losses.total, losses.logits)

    def _states(self, perturbation_BLD: Tensor | None) -> Tensor:
        if perturbation_BLD is None:
            return self.encoded.states_TLD
        words_TLD, texts = self.encoded.words_TLD, self.task.texts
        versions = len(words_TLD) // texts.captions
        return self.task.student.bert.encode(words_TLD + perturbation_BLD.repeat(versions, 1, 1), texts.mask_TL)

    def _image(self, perturbation: Tensor | None) -> Tensor:
        if perturbation is None:
            return self.encoded.image_BNC
        if self.patches_BPC is None:
            return self.encoded.image_BNC + perturbation
        return encode_patches(self.task.student.visual_encoder, self.patches_BPC + perturbation)
