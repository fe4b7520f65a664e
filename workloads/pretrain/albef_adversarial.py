"""VILLA's adversarial pre-training (Gan et al. 2020) on ALBEF.

VILLA perturbs the objectives whose predictions come out of the multimodal transformer: masked language, matching and
masked regions. ALBEF's fusion layers have the first two, so those are trained and held stable under perturbations.
The contrastive objective compares unimodal features with the teacher's and sees the clean inputs alone; encoders
still learn from the perturbed passes through what these read of them.

Shapes: B captions and images, L text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from workloads.contract import Backward, KeyedRandom
from workloads.nn.vision import patch_embeddings
from workloads.objectives.adversarial import AdversarialLosses, AdversarialOptions, adversarial_steps
from workloads.objectives.cut import Cut
from workloads.objectives.divergence import log_probabilities
from workloads.objectives.perturbation import Ascent, start_perturbation
from workloads.pretrain.albef_config import AdversarialConfig
from workloads.pretrain.albef_fusion import FusionLosses, FusionTask
from workloads.pretrain.albef_model import Encoded, Student
from workloads.pretrain.albef_perturbed import PerturbedFusion


def train_adversarially(
    task: FusionTask,
    image_B3HW: Tensor,
    encoded: Encoded,
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
    cut = Cut((*encoded, *patches, *predictions), backward)
    inputs, stable = cut.leaves[: -len(predictions)], cut.leaves[-len(predictions) :]
    perturbed = PerturbedFusion(task, Encoded(*inputs[:3]), *inputs[3:])
    starts = _starts(perturbed, config, draw)
    losses = adversarial_steps(perturbed, stable, starts, options_of(config), cut.backward)
    remainder = cut.remainder()
    return remainder + clean.total if config.clean_loss else remainder, losses


def options_of(config: AdversarialConfig) -> AdversarialOptions:
    """Return the options of the adversarial loop."""
    return AdversarialOptions(
        steps=config.steps,
        ascent=Ascent(config.step_size, config.norm, config.max_norm),
        form=config.form,
        kl_weight=config.kl_weight,
        kl_reduction=config.kl_reduction,
    )


def _patches(student: Student, image_B3HW: Tensor, config: AdversarialConfig) -> tuple[Tensor, ...]:
    if config.image_at == "tokens" or "image" not in config.perturb:
        return ()
    return (patch_embeddings(student.visual_encoder, student.pixels(image_B3HW)),)


def _starts(perturbed: PerturbedFusion, config: AdversarialConfig, draw: KeyedRandom) -> Mapping[str, Tensor]:
    texts, radius = perturbed.task.texts, config.init_radius if config.init == "uniform" else 0.0
    real = {"text": texts.mask_TL[: texts.captions]}
    return {
        modality: start_perturbation(
            perturbed.inputs[modality].detach(), radius, draw.child("perturb", modality), real.get(modality)
        )
        for modality in config.perturb
    }
