"""The geometry of adversarial perturbations: where they start, how they ascend and how far they may go.

Every length is that of one example. Shapes: B examples, L positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workloads.contract import KeyedRandom
from workloads.objectives.distillation import at_least_float32

Norm = Literal["l2", "linf"]
"""Euclidean over all elements of an example (Frobenius), or the largest absolute element."""


@dataclass(frozen=True, slots=True)
class Ascent:
    """How a perturbation climbs.

    Args:
        step_size: length of a step.
        norm: of steps and of the bound.
        max_norm: radius of the ball around zero that perturbations stay in; None for no bound.
    """

    step_size: float
    norm: Norm = "l2"
    max_norm: float | None = None


def start_perturbation(like: Tensor, radius: float, draw: KeyedRandom, real_BL: Tensor | None = None) -> Tensor:
    """Return U(-radius, radius) / sqrt(N), shaped as `like`, at least in float32; zeros when the radius is 0.

    N counts the elements of an example, those of padding left out (Zhu et al. 2020, FreeLB, algorithm 1).

    Args:
        like: what is perturbed, [B, L, ...].
        radius: bound of the start's Frobenius norm.
        draw: the key of the start.
        real_BL: False at padding, which starts at zero; None when there is none.
    """
    start = torch.zeros_like(at_least_float32(like), memory_format=torch.contiguous_format)
    if not radius:
        return start
    start.uniform_(-radius, radius, generator=draw.torch(like.device))
    if real_BL is None:
        return start / math.sqrt(like[0].numel())
    trailing = (1,) * (like.dim() - 2)
    elements_B = real_BL.sum(1).clamp_min(1) * like[0, 0].numel()
    return start * real_BL.view(*real_BL.shape, *trailing) / elements_B.sqrt().view(-1, 1, *trailing)


@torch.no_grad()
def ascend(perturbation: Tensor, gradient: Tensor, ascent: Ascent) -> Tensor:
    """Return the perturbation one step up its gradient, inside the ball.

    A step is step_size * gradient / |gradient|, so a positive factor on the gradient does not matter.
    """
    length = example_norm(gradient, ascent.norm).clamp_min(1e-8)
    moved = perturbation + ascent.step_size * gradient / length
    return moved if ascent.max_norm is None else project(moved, ascent.norm, ascent.max_norm)


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
