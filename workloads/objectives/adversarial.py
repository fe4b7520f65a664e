"""Adversarial training in embedding space (VILLA, Gan et al. 2020, algorithm 1; free accumulation after FreeLB).

A pass perturbs one modality or several. With d the perturbations of a pass, repeated for k = 1..K:

    accumulate the gradient of weight * (task(d) + kl_weight * KLsym(task(d), clean))
    d <- project(d + step_size * g / |g|),  g = gradient of the same loss in d, |.| per example and modality

so pass k trains on the perturbation after k - 1 ascent steps: the parameters' gradients are by-products of the ascent.
The caller adds the loss of the clean pass, where it counts.

The file holds the loop (`adversarial_steps`), the geometry of perturbations, the divergence between predictions and
`DetachedBoundary`, which lets several backward passes share one below it.

Shapes: B examples, L positions, R rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workloads.contract import Backward, KeyedRandom
from workloads.objectives.contrastive import at_least_float32

Norm = Literal["l2", "linf"]
"""Norm of one example's perturbation: Euclidean over all its elements (Frobenius), or the largest absolute element."""


@dataclass(frozen=True, slots=True)
class AscentOptions:
    """How gradient ascent moves a perturbation.

    Args:
        step_size: length of a step.
        norm: of steps and of the bound.
        max_norm: radius of the ball around zero that perturbations are projected onto; None for no bound.
    """

    step_size: float
    norm: Norm = "l2"
    max_norm: float | None = None


def init_perturbation(like: Tensor, radius: float, draw: KeyedRandom, mask_BL: Tensor | None = None) -> Tensor:
    """Return U(-radius, radius) / sqrt(N), shaped as `like`, at least in float32; zeros when the radius is 0.

    N is the number of elements of an example without padding (Zhu et al. 2020, FreeLB, algorithm 1).

    Args:
        like: the tensor to perturb, [B, L, ...].
        radius: bound of the initial Frobenius norm.
        draw: key of the random numbers.
        mask_BL: False at padding, which starts at zero; None when there is none.
    """
    start = torch.zeros_like(at_least_float32(like), memory_format=torch.contiguous_format)
    if not radius:
        return start
    start.uniform_(-radius, radius, generator=draw.torch(like.device))
    if mask_BL is None:
        return start / math.sqrt(like[0].numel())
    trailing = (1,) * (like.dim() - 2)
    elements_B = mask_BL.sum(1).clamp_min(1) * like[0, 0].numel()
    return start * mask_BL.view(*mask_BL.shape, *trailing) / elements_B.sqrt().view(-1, 1, *trailing)


@torch.no_grad()
def ascend(perturbation: Tensor, gradient: Tensor, ascent: AscentOptions) -> Tensor:
    """Return the perturbation after one ascent step, projected onto the ball.

    A step is step_size * gradient / |gradient|, so a positive factor on the gradient does not matter.
    """
    length = example_norm(gradient, ascent.norm).clamp_min(1e-8)
    moved = perturbation + ascent.step_size * gradient / length
    return moved if ascent.max_norm is None else project(moved, ascent.norm, ascent.max_norm)


def project(perturbation: Tensor, norm: Norm, radius: float) -> Tensor:
    """Project each example's perturbation onto the ball of the norm."""
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


Reduction = Literal["rows", "elements"]
"""Mean over rows of the sum over classes, or mean over all elements, which is C times less.

VILLA's released code uses the first for VQA, visual entailment and NLVR2 and the second for VCR. Over a vocabulary the
second makes the divergence negligible.
"""


def log_probabilities(logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the log softmax of each task's logits, [R, C] each, at least in float32."""
    return tuple(at_least_float32(task_logits).log_softmax(1) for task_logits in logits)


def divergence_sum(left: tuple[Tensor, ...], right: tuple[Tensor, ...], reduction: Reduction) -> Tensor:
    """Return the sum over tasks of the symmetric divergence of log probabilities, [R, C] each (VILLA's R_kl)."""
    pairs = zip(left, right, strict=True)
    return torch.stack([symmetric_divergence(*pair, reduction) for pair in pairs]).sum()


def symmetric_divergence(left_RC: Tensor, right_RC: Tensor, reduction: Reduction = "rows") -> Tensor:
    """Return KL(left || right) + KL(right || left) of log probabilities; 0 without rows.

    Both directions together are the sum of (p - q) * (log p - log q).
    """
    total = ((left_RC.exp() - right_RC.exp()) * (left_RC - right_RC)).sum()
    count = len(left_RC) if reduction == "rows" else left_RC.numel()
    return total / max(count, 1)


Form = Literal["separate", "together", "alternating"]
"""How several modalities combine.

separate: a pass perturbs one modality, and the modalities' terms are added (the paper: one perturbation at a time).
together: a pass perturbs all, and all ascend the same gradient (released code, `adv_modality: [text, image]`).
alternating: as separate, with the terms averaged over modalities (released code, `adv_modality: [text, image, alter]`).
"""


class Prediction(NamedTuple):
    """Output of a task for a micro-batch.

    Args:
        loss: the scalar to minimise.
        logits: predictions that the divergence is measured on, [R, C] each.
    """

    loss: Tensor
    logits: tuple[Tensor, ...]


Perturbations = Mapping[str, Tensor]
"""Perturbation by modality, [B, ...] each; a modality that is missing is not perturbed."""

PerturbedTask = Callable[[Perturbations], Prediction]
"""Computes the task's loss and logits under perturbations."""


@dataclass(frozen=True, slots=True)
class AdversarialOptions:
    """Options of the adversarial loop.

    Args:
        steps: number of passes, K.
        ascent: how perturbations move between passes.
        form: how several modalities combine.
        kl_weight: weight of the symmetric divergence from the clean prediction.
        kl_reduction: over rows or over all elements.
    """

    steps: int
    ascent: AscentOptions
    form: Form = "separate"
    kl_weight: float = 0.0
    kl_reduction: Reduction = "rows"


class AdversarialLosses(NamedTuple):
    """The task's loss and the divergence, detached, summed over all passes with the weight of a pass."""

    task: Tensor
    divergence: Tensor


def adversarial_steps(
    task: PerturbedTask,
    clean: tuple[Tensor, ...],
    starts: Perturbations,
    options: AdversarialOptions,
    backward: Backward,
) -> AdversarialLosses:
    """Run the perturbed passes, accumulating gradients, and return the losses.

    Args:
        task: called K times, or K times per modality when modalities are perturbed separately.
        clean: log probabilities of the unperturbed pass; gradients flow into them as well.
        starts: initial perturbations.
        options: of the loop.
        backward: accumulates gradients, possibly scaled by a positive constant.
    """
    groups, weight = _groups(tuple(starts), options)
    perturbations, losses = dict(starts), []
    for step in range(options.steps):
        ascends = step + 1 < options.steps
        for group in groups:
            leaves = {name: perturbations[name].detach().requires_grad_(ascends) for name in group}
            losses.append(_perturbed_pass(task, clean, leaves, options, weight, backward))
            if ascends:
                perturbations |= _ascend_all(leaves, options.ascent)
    task_losses, divergences = zip(*losses, strict=True)
    return AdversarialLosses(weight * torch.stack(task_losses).sum(), weight * torch.stack(divergences).sum())


def _groups(modalities: tuple[str, ...], options: AdversarialOptions) -> tuple[tuple[tuple[str, ...], ...], float]:
    """Return the modalities of each pass of a step, and the weight of a pass."""
    if options.form == "together":
        return (modalities,), 1 / options.steps
    single = tuple((modality,) for modality in modalities)
    terms = len(single) if options.form == "alternating" else 1
    return single, 1 / (terms * options.steps)


def _perturbed_pass(
    task: PerturbedTask,
    clean: tuple[Tensor, ...],
    perturbations: Perturbations,
    options: AdversarialOptions,
    weight: float,
    backward: Backward,
) -> AdversarialLosses:
    prediction = task(perturbations)
    with torch.set_grad_enabled(options.kl_weight > 0):
        divergence = divergence_sum(log_probabilities(prediction.logits), clean, options.kl_reduction)
    backward(weight * (prediction.loss + options.kl_weight * divergence))
    return AdversarialLosses(prediction.loss.detach(), divergence.detach())


def _ascend_all(leaves: Perturbations, ascent: AscentOptions) -> dict[str, Tensor]:
    return {name: leaf if leaf.grad is None else ascend(leaf, leaf.grad, ascent) for name, leaf in leaves.items()}


class DetachedBoundary:
    """Detaches tensors that several losses share, so that the graph below them is differentiated once.

    Losses are built on `leaves` and go through `backward`; adding `remainder()` to the last loss, built on the
    original tensors, then gives the same parameter gradients as without the boundary.

    Args:
        tensors: those that the losses share.
        backward: accumulates gradients, possibly scaled by a positive constant, the same at every call.
    """

    def __init__(self, tensors: tuple[Tensor, ...], backward: Backward) -> None:
        self.leaves = tuple(tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors)
        self._tensors = tensors
        self._backward = backward
        self._unit: Tensor | None = None

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Accumulate the gradients of a loss built on the leaves."""
        if self._unit is None:  # a term of gradient 1, which reveals the constant
            self._unit = torch.zeros_like(loss, requires_grad=True)
            loss = loss + self._unit
        self._backward(loss, retain_graph=retain_graph)

    def remainder(self) -> Tensor:
        """Return a scalar whose gradient in each tensor is the one that its leaf accumulated, without the constant."""
        constant = 1.0 if self._unit is None or self._unit.grad is None else self._unit.grad
        terms = [
            (at_least_float32(leaf.grad) / constant * at_least_float32(tensor)).sum()
            for leaf, tensor in zip(self.leaves, self._tensors, strict=True)
            if leaf.grad is not None
        ]
        return torch.stack(terms).sum()
