"""Dropout whose mask is cheap to draw on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 2**16
"""A chance is rounded to a multiple of 1 / LEVELS on the CPU: one 16-bit number decides about an element."""


def dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """Zero elements with a probability and scale the others up (Srivastava et al. 2014), in training only.

    torch draws one number per element on a CPU, in one thread; there, one 64-bit number decides about four elements.
    """
    if not training or probability == 0:
        return states
    if states.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(states, probability, training=True)
    return states * _mask(states, probability)


def _mask(like: Tensor, probability: float) -> Tensor:
    """Return zeros and 1 / (1 - probability), in the shape and dtype of `like`."""
    dropped = round(probability * LEVELS)
    words = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: like.numel()].view(like.shape)
    mask = torch.ge(bits, dropped - LEVELS // 2, out=torch.empty(like.shape, dtype=like.dtype))
    return mask.mul_(LEVELS / (LEVELS - dropped))
