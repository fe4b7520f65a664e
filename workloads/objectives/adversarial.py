"""Adversarial training in embedding space (VILLA, Gan et al. 2020, algorithm 1; free accumulation after FreeLB).

A pass perturbs one modality or several. With d the perturbations of a pass, repeated for k = 1..K:

    accumulate the gradient of share * (task(d) + kl_weight * KLsym(task(d), clean))
    d <- project(d + step_size * g / |g|),  g = gradient of the same loss in d, |.| per example and modality

so pass k trains on the perturbation that k - 1 ascents reached: the parameters' gradients are by-products of the
ascents. The loss of the clean pass, where it counts, is added by the caller.

Shapes: B examples, R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workloads.contract import Backward
from workloads.objectives.divergence import Reduction, divergence_sum, log_probabilities
from workloads.objectives.perturbation import Ascent, ascend

Form = Literal["separate", "together", "alternating"]
"""How several modalities combine.

separate: a pass perturbs one modality, and the modalities' terms add up (the paper: one perturbation at a time).
together: a pass perturbs all, and all climb by the same gradient (released code, `adv_modality: [text, image]`).
alternating: as separate, but all passes together weigh as one (released code, `adv_modality: [text, image, alter]`).
"""


class Prediction(NamedTuple):
    """What a task says about a micro-batch.

    Args:
        loss: the scalar to minimise.
        logits: predictions to hold stable, [R, C] each.
    """

    loss: Tensor
    logits: tuple[Tensor, ...]


Perturbations = Mapping[str, Tensor]
"""Perturbation by modality, [B, ...] each; what is missing is not perturbed."""

Task = Callable[[Perturbations], Prediction]
"""The task under perturbations."""


@dataclass(frozen=True, slots=True)
class AdversarialOptions:
    """How to train.

    Args:
        steps: K.
        ascent: how perturbations climb.
        form: how several modalities combine.
        kl_weight: weight of the symmetric divergence from the clean prediction.
        kl_reduction: over rows or over all elements.
    """

    steps: int
    ascent: Ascent
    form: Form = "separate"
    kl_weight: float = 0.0
    kl_reduction: Reduction = "rows"


class AdversarialLosses(NamedTuple):
    """The task's loss and the divergence over all passes, detached, each pass by its share."""

    task: Tensor
    divergence: Tensor


def adversarial_steps(
    task: Task,
    clean: tuple[Tensor, ...],
    starts: Perturbations,
    options: AdversarialOptions,
    backward: Backward,
) -> AdversarialLosses:
    """Run the perturbed passes, accumulating gradients, and return the losses.

    Args:
        task: called K times, or K times per modality when those are perturbed apart.
        clean: log probabilities of the unperturbed pass; gradients flow into them as well.
        starts: first perturbations.
        options: how to train.
        backward: accumulates gradients, maybe times a positive constant.
    """
    groups, share = _groups(tuple(starts), options)
    perturbations, losses = dict(starts), []
    for step in range(options.steps):
        climbs = step + 1 < options.steps
        for group in groups:
            probes = {name: perturbations[name].detach().requires_grad_(climbs) for name in group}
            losses.append(_perturbed_pass(task, clean, probes, options, share, backward))
            if climbs:
                perturbations |= _ascended(probes, options.ascent)
    task_losses, divergences = zip(*losses, strict=True)
    return AdversarialLosses(share * torch.stack(task_losses).sum(), share * torch.stack(divergences).sum())


def _groups(modalities: tuple[str, ...], options: AdversarialOptions) -> tuple[tuple[tuple[str, ...], ...], float]:
    """Return the modalities of each pass of a step, and the weight of a pass."""
    if options.form == "together":
        return (modalities,), 1 / options.steps
    apart = tuple((modality,) for modality in modalities)
    terms = len(apart) if options.form == "alternating" else 1
    return apart, 1 / (terms * options.steps)


def _perturbed_pass(
    task: Task,
    clean: tuple[Tensor, ...],
    probes: Perturbations,
    options: AdversarialOptions,
    share: float,
    backward: Backward,
) -> AdversarialLosses:
    prediction = task(probes)
    with torch.set_grad_enabled(options.kl_weight > 0):
        divergence = divergence_sum(log_probabilities(prediction.logits), clean, options.kl_reduction)
    backward(share * (prediction.loss + options.kl_weight * divergence))
    return AdversarialLosses(prediction.loss.detach(), divergence.detach())


def _ascended(probes: Perturbations, ascent: Ascent) -> dict[str, Tensor]:
    return {name: probe if probe.grad is None else ascend(probe, probe.grad, ascent) for name, probe in probes.items()}
