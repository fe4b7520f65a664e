"""VILLA's adversarial pre-training (Gan et al. 2020) on ALBEF.

VILLA perturbs the objectives whose predictions come out of the multimodal transformer: masked language, matching and
masked regions. ALBEF's fusion layers have the first two, so those are trained, and kept stable, under perturbations.
The contrastive objective compares unimodal features with the teacher's and sees only the clean inputs; the encoders
still get gradients of the perturbed passes through their outputs.

A text's perturbation is added to the word embeddings of the caption and of its masked version; an image's to the image
encoder's output tokens, or to its patch embeddings before class token and positions: what its first layer gives.

Shapes: B captions and images, T texts (captions, then masked captions), L text tokens, N image tokens, D text width,
C image width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from workloads.albef.config import AdversarialConfig
from workloads.albef.fusion import FusionLosses, FusionObjectives
from workloads.albef.model import EncoderOutputs, Student
from workloads.contract import Backward, KeyedRandom
from workloads.nn.timm_encoder import embed_patches, encode_patches
from workloads.objectives.adversarial import (
    AdversarialLosses,
    AdversarialOptions,
    AscentOptions,
    DetachedBoundary,
    Perturbations,
    Prediction,
    adversarial_steps,
    init_perturbation,
    log_probabilities,
)


def train_adversarially(
    objectives: FusionObjectives,
    image_B3HW: Tensor,
    encoded: EncoderOutputs,
    clean: FusionLosses,
    config: AdversarialConfig,
    draw: KeyedRandom,
    backward: Backward,
) -> tuple[Tensor, AdversarialLosses]:
    """Run the perturbed passes; return the fusion loss that is left to differentiate, and the adversarial losses.

    Encoders and the clean pass are differentiated once, when the caller passes the returned loss to `backward`.

    Args:
        objectives: of the fusion layers.
        image_B3HW: the images, read when patches are perturbed.
        encoded: the encoders' outputs for texts and images.
        clean: losses of the clean pass.
        config: the recipe's section `adversarial`.
        draw: key of the initial perturbations.
        backward: accumulates gradients.
    """
    if not clean.logits:
        return clean.total, AdversarialLosses(clean.total, clean.total)
    patches = _patches(objectives.student, image_B3HW, config)
    predictions = log_probabilities(clean.logits)
    boundary = DetachedBoundary((*encoded, *patches, *predictions), backward)
    leaves, clean_leaves = boundary.leaves[: -len(predictions)], boundary.leaves[-len(predictions) :]
    inputs, perturbed_patches = EncoderOutputs(*leaves[: len(encoded)]), leaves[len(encoded) :]
    perturbed = PerturbedFusion(objectives, inputs, image_B3HW, *perturbed_patches)
    starts = _starts(perturbed, config, draw)
    losses = adversarial_steps(perturbed, clean_leaves, starts, options_of(config), boundary.backward)
    remainder = boundary.remainder()
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
    texts, radius = perturbed.objectives.texts, config.init_radius if config.init == "uniform" else 0.0
    masks = {"text": texts.mask_TL[: texts.captions]}
    return {
        modality: init_perturbation(
            perturbed.inputs[modality].detach(), radius, draw.child("perturb", modality), masks.get(modality)
        )
        for modality in config.perturb
    }


@dataclass(frozen=True, slots=True)
class PerturbedFusion:
    """The fusion objectives under perturbations; a pass re-runs only the encoders whose input is perturbed.

    Args:
        objectives: of the fusion layers.
        encoded: the encoders' outputs: the inputs to perturb, and those used unperturbed.
        image_B3HW: the images, read when patches are perturbed.
        patches: outputs of the image encoder's first layer, to perturb instead of the image tokens.
    """

    objectives: FusionObjectives
    encoded: EncoderOutputs
    image_B3HW: Tensor
    patches: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The tensors that are perturbed, by modality: words [B, L, D]; image tokens [B, N, C] or patches [B, ...]."""
        words_BLD = self.encoded.words_TLD[: self.objectives.texts.captions]
        return {"text": words_BLD, "image": self.encoded.image_BNC if self.patches is None else self.patches}

    def __call__(self, perturbations: Perturbations) -> Prediction:
        """Return loss and logits with the perturbations of `text` and `image`, each shaped as its input."""
        states_TLD, image_BNC = self._states(perturbations.get("text")), self._image(perturbations.get("image"))
        losses = self.objectives(states_TLD, image_BNC)
        return Prediction(losses.total, losses.logits)

    def _states(self, perturbation_BLD: Tensor | None) -> Tensor:
        if perturbation_BLD is None:
            return self.encoded.states_TLD
        words_TLD, texts = self.encoded.words_TLD, self.objectives.texts
        versions = len(words_TLD) // texts.captions
        return self.objectives.student.bert.encode(words_TLD + perturbation_BLD.repeat(versions, 1, 1), texts.mask_TL)

    def _image(self, perturbation: Tensor | None) -> Tensor:
        if perturbation is None:
            return self.encoded.image_BNC
        if self.patches is None:
            return self.encoded.image_BNC + perturbation
        student = self.objectives.student
        return student.fusion_tokens(
            encode_patches(student.visual_encoder, self.patches + perturbation, student.pixels(self.image_B3HW))
        )
