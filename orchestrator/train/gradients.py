"""Gradients in one flat buffer, so that summing them over workers is a handful of large messages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from orchestrator.train.collective import Collective

BUCKET_ELEMENTS = 8 * 1024 * 1024


class GradientBuffer:
    """The gradients of all trained parameters as views into one tensor per dtype.

    Accumulation needs no copy, clearing is one fill, and every worker sends the same messages whichever of its
    parameters took part in a step.

    Args:
        parameters: the trained parameters, in the same order on every worker.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._flat: list[Tensor] = []
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            self._flat.append(_as_views([parameter for parameter in parameters if parameter.dtype == dtype]))

    def clear(self) -> None:
        """Set all gradients to zero."""
        for flat in self._flat:
            flat.zero_()

    def sum(self, collective: Collective, weight: float) -> None:
        """Sum the gradients over all workers and divide by a weight."""
        for flat in self._flat:
            if collective.size > 1:
                for bucket in flat.split(BUCKET_ELEMENTS):
                    collective.sum(bucket)
            if weight != 1.0:
                flat.div_(weight)

    def norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d."""
        norms = torch.stack([torch.linalg.vector_norm(flat) for flat in self._flat])
        total: Tensor = torch.linalg.vector_norm(norms)
        return total

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients so that their norm is at most `largest`."""
        scale = (largest / (norm + 1e-6)).clamp(max=1.0)
        for flat in self._flat:
            flat.mul_(scale.to(flat.dtype))


def _as_views(parameters: Sequence[nn.Parameter]) -> Tensor:
    flat = torch.zeros(
        sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat
