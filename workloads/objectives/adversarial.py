"""Adversarial training in embedding space (VILLA, Gan et al. 2020, algorithm 1; free accumulation after FreeLB).

Per modality and pass k = 1..K, with perturbation d of one modality at a time:

    accumulate the gradient of (task(d) + kl_weight * KLsym(task(d), clean)) / K
    d <- project(d + step_size * g / |g|),  g = gradient of the same loss in d, |.| per example

so pass k trains on the perturbation that k - 1 ascents reached, and the clean loss is added by the caller.

Shapes: B examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workloads.contract import Backward, KeyedRandom
from workloads.objectives.distillation import at_least_float32, mean_rows

Norm = Literal["l2", "linf"]
"""Euclidean over all elements of an example (Frobenius), or the largest absolute element."""


class Prediction(NamedTuple):
    """What a task says about a micro-batch.

    Args:
        loss: the scalar to minimise.
        logits: predictions to hold stable, [rows, classes] each.
    """

    loss: Tensor
    logits: tuple[Tensor, ...]


Task = Callable[[str, Tensor], Prediction]
"""The task under a perturbation: (modality, perturbation) -> prediction."""


@dataclass(frozen=True, slots=True)
class AdversarialOptions:
    """How to perturb.

    Args:
        steps: passes K per modality.
        step_size: length of an ascent step.
        norm: norm of steps and of the bound.
        max_norm: radius of the ball around zero that perturbations stay in; None for no bound.
        init_radius: bound of the uniform start before division by the root of an example's elements; 0 starts at zero.
        kl_weight: weight of the symmetric divergence from the clean prediction.
    """

    steps: int
    step_size: float
    norm: Norm
    max_norm: float | None
    init_radius: float
    kl_weight: float


class AdversarialLosses(NamedTuple):
    """Detached means over the K passes, summed over modalities: the task's loss and the divergence."""

    task: Tensor
    divergence: Tensor


def adversarial_steps(
    task: Task,
    clean: tuple[Tensor, ...],
    starts: Mapping[str, Tensor],
    options: AdversarialOptions,
    backward: Backward,
) -> AdversarialLosses:
    """Run K perturbed passes per modality, accumulating gradients, and return the losses.

    Args:
        task: called K times per modality.
        clean: the logits of the unperturbed pass; gradients flow into them as well.
        starts: first perturbation by modality, [B, ...] each.
        options: how to perturb.
        backward: accumulates gradients, maybe times a positive constant.
    """
    losses = [_perturbed_passes(modality, task, clean, start, options, backward) for modality, start in starts.items()]
    task_losses, divergences = zip(*losses, strict=True)
    return AdversarialLosses(torch.stack(task_losses).sum(), torch.stack(divergences).sum())


def _perturbed_passes(
    modality: str,
    task: Task,
    clean: tuple[Tensor, ...],
    start: Tensor,
    options: AdversarialOptions,
    backward: Backward,
) -> AdversarialLosses:
    perturbation, losses, divergences = start, [], []
    for step in range(options.steps):
        perturbation = perturbation.detach().requires_grad_()
        prediction = task(modality, perturbation)
        divergence = divergence_sum(prediction.logits, clean)
        backward((prediction.loss + options.kl_weight * divergence) / options.steps)
        losses.append(prediction.loss.detach())
        divergences.append(divergence.detach())
        if step + 1 < options.steps and perturbation.grad is not None:
            perturbation = ascend(perturbation, perturbation.grad, options)
    return AdversarialLosses(torch.stack(losses).mean(), torch.stack(divergences).mean())


def start_perturbation(like: Tensor, options: AdversarialOptions, draw: KeyedRandom) -> Tensor:
    """Return zeros, or U(-init_radius, init_radius) / sqrt(elements of an example), shaped as `like`."""
    start = torch.zeros_like(like)
    if options.init_radius:
        start.uniform_(-options.init_radius, options.init_radius, generator=draw.torch(like.device))
    return start / math.sqrt(like[0].numel())


@torch.no_grad()
def ascend(perturbation: Tensor, gradient: Tensor, options: AdversarialOptions) -> Tensor:
    """Return the perturbation one step up its gradient, inside the ball; steps and bounds hold per example."""
    length = example_norm(gradient, options.norm).clamp_min(1e-8)
    moved = perturbation + options.step_size * gradient / length
    if options.max_norm is None:
        return moved
    return project(moved, options.norm, options.max_norm)


def project(perturbation: Tensor, norm: Norm, radius: float) -> Tensor:
    """Return the nearest point to each example's perturbation in the ball of the norm."""
    if norm == "linf":
        return perturbation.clamp(-radius, radius)
    length = example_norm(perturbation, norm)
    return torch.where(length > radius, perturbation * (radius / length), perturbation)


def example_norm(tensor: Tensor, norm: Norm) -> Tensor:
    """Return the norm of each example, [B, 1, ...]."""
    order = 2 if norm == "l2" else math.inf
    dims = tuple(range(1, tensor.dim()))
    lengths: Tensor = torch.linalg.vector_norm(tensor, order, dim=dims, keepdim=True)
    return lengths


def divergence_sum(perturbed: tuple[Tensor, ...], clean: tuple[Tensor, ...]) -> Tensor:
    """Return the sum over tasks of the symmetric divergence, each a mean over rows."""
    return torch.stack([symmetric_divergence(*pair) for pair in zip(perturbed, clean, strict=True)]).sum()


def symmetric_divergence(left: Tensor, right: Tensor) -> Tensor:
    """Return the mean over rows of KL(left || right) + KL(right || left) between the softmaxes of logits.

    Both directions together are sum((p - q) * (log p - log q)).
    """
    log_left, log_right = at_least_float32(left).log_softmax(1), at_least_float32(right).log_softmax(1)
    return mean_rows(((log_left.exp() - log_right.exp()) * (log_left - log_right)).sum(1))
