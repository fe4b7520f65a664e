"""Gradients in one flat buffer, so that summing them over workers is a handful of large messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BUCKET_BYTES = 25 * 1024 * 1024
"""A bucket is full once it has this size; the default of torch's DistributedDataParallel as well."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Gradients that travel as one message.

    Args:
        gradients: a 1-d view of the buffer.
        parameters: whose gradients these are.
    """

    gradients: Tensor
    parameters: tuple[nn.Parameter, ...]


class GradientBuffer:
    """The gradients of all trained parameters as views into one tensor per dtype.

    Accumulation needs no copy, clearing is one fill, and every worker sends the same messages whichever of its
    parameters took part in a step.

    Args:
        parameters: the trained parameters in the order of the model, the same on every worker. They are laid out in
            reverse, so that neighbours in the buffer get their gradients at about the same time.
        bucket_bytes: size from which on a bucket is full.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._flat: list[Tensor] = []
        self.buckets: list[Bucket] = []
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            own = [parameter for parameter in reversed(parameters) if parameter.dtype == dtype]
            self._flat.append(_as_views(own))
            self.buckets += _buckets(self._flat[-1], own, bucket_bytes)

    def clear(self) -> None:
        """Set all gradients to zero."""
        for flat in self._flat:
            flat.zero_()

    def divide(self, weight: float) -> None:
        """Divide all gradients by a weight."""
        if weight != 1.0:
            for flat in self._flat:
                flat.div_(weight)

    def norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d."""
        norms = torch.stack([torch.linalg.vector_norm(flat) for flat in self._flat])
        total: Tensor = torch.linalg.vector_norm(norms)
        return total

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients by what brings a norm down to at most `largest`."""
        for flat in self._flat:
            flat.mul_(clip_scale(norm, largest).to(flat.dtype))


def clip_scale(norm: Tensor, largest: float) -> Tensor:
    """Return the factor that brings a gradient norm down to at most `largest`, 0-d."""
    return (largest / (norm + 1e-6)).clamp(max=1.0)


def _as_views(parameters: Sequence[nn.Parameter]) -> Tensor:
    flat = torch.zeros(
        sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat


def _buckets(flat: Tensor, parameters: Sequence[nn.Parameter], bucket_bytes: int) -> Iterator[Bucket]:
    start, members = 0, list[nn.Parameter]()
    for parameter in parameters:
        members.append(parameter)
        elements = sum(member.numel() for member in members)
        if elements * flat.element_size() >= bucket_bytes or parameter is parameters[-1]:
            yield Bucket(flat[start : start + elements], tuple(members))
            start, members = start + elements, []
