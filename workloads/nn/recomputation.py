"""Gradient checkpointing: keep a layer's inputs alone and compute the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def run_layer(layer: Callable[..., Tensor], *inputs: object, recompute: bool) -> Tensor:
    """Return what a layer makes of its inputs.

    Args:
        layer: its random draws are repeated when it is computed again.
        inputs: of the layer.
        recompute: keep only the inputs (Chen et al. 2016); without gradients nothing is kept anyway.
    """
    if not (recompute and torch.is_grad_enabled()):
        return layer(*inputs)
    output: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
    return output
