"""Several backward passes above a cut, one below it."""

from __future__ import annotations

import torch
from torch import Tensor

from workloads.contract import Backward
from workloads.objectives.distillation import at_least_float32


class Cut:
    """Detaches tensors that several losses share, so that what produced them is differentiated once.

    Losses are built on `leaves` and go through `backward`; adding `remainder()` to the last loss, built on the
    original tensors, then gives the same parameter gradients as if nothing had been cut.

    Args:
        tensors: what the losses share.
        backward: accumulates gradients, maybe times a positive constant that is the same at every call.
    """

    def __init__(self, tensors: tuple[Tensor, ...], backward: Backward) -> None:
        self.leaves = tuple(tensor.detach().requires_grad_() for tensor in tensors)
        self._tensors = tensors
        self._backward = backward
        self._probe: Tensor | None = None

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Accumulate the gradients of a loss built on the leaves."""
        if self._probe is None:
            self._probe = torch.zeros_like(loss, requires_grad=True)
            loss = loss + self._probe
        self._backward(loss, retain_graph=retain_graph)

    def remainder(self) -> Tensor:
        """Return a scalar whose gradient in each tensor is what its leaf has accumulated, without the constant."""
        constant = 1.0 if self._probe is None or self._probe.grad is None else self._probe.grad
        terms = [
            (at_least_float32(leaf.grad) / constant * at_least_float32(tensor)).sum()
            for leaf, tensor in zip(self.leaves, self._tensors, strict=True)
            if leaf.grad is not None
        ]
        return torch.stack(terms).sum()
