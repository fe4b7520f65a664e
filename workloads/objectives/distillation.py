"""Momentum distillation: targets mixed from the labels and the teacher's predictions (ALBEF section 3.3).

Shapes: R rows, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ramped_alpha(alpha: float, ramp_epochs: float, epoch: float) -> float:
    """Return the weight of the soft targets, growing linearly from 0 to `alpha` over the first epochs.

    Args:
        alpha: final weight.
        ramp_epochs: length of the ramp in epochs; 0 for no ramp.
        epoch: epochs completed, with the fraction of the current one.
    """
    return alpha * min(1.0, epoch / ramp_epochs) if ramp_epochs else alpha


def cross_entropy_rows(logits_RC: Tensor, targets_RC: Tensor) -> Tensor:
    """Return -sum(target * log softmax(logit)) of each row, [R]."""
    return -(targets_RC * at_least_float32(logits_RC).log_softmax(1)).sum(1)


def mean_rows(values_R: Tensor) -> Tensor:
    """Return the mean, or a zero that still belongs to the graph when there are no rows."""
    return values_R.sum() / max(len(values_R), 1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 if it is half precision, else unchanged."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
