"""How far perturbed predictions are from clean ones (the R_kl of VILLA, Gan et al. 2020).

Shapes: R rows, C classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from workloads.objectives.distillation import at_least_float32

Reduction = Literal["rows", "elements"]
"""Mean over rows of the sum over classes, or mean over all elements, which is C times less.

VILLA's released code takes the first for VQA, visual entailment and NLVR2 and the second for VCR. Over a vocabulary
the second leaves next to nothing of the divergence.
"""


def log_probabilities(logits: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the log softmax of each task's logits, [R, C] each, at least in float32."""
    return tuple(at_least_float32(task_logits).log_softmax(1) for task_logits in logits)


def divergence_sum(left: tuple[Tensor, ...], right: tuple[Tensor, ...], reduction: Reduction) -> Tensor:
    """Return the sum over tasks of the symmetric divergence of log probabilities, [R, C] each."""
    pairs = zip(left, right, strict=True)
    return torch.stack([symmetric_divergence(*pair, reduction) for pair in pairs]).sum()


def symmetric_divergence(left_RC: Tensor, right_RC: Tensor, reduction: Reduction = "rows") -> Tensor:
    """Return KL(left || right) + KL(right || left) of log probabilities; 0 without rows.

    Both directions together are the sum of (p - q) * (log p - log q).
    """
    total = ((left_RC.exp() - right_RC.exp()) * (left_RC - right_RC)).sum()
    count = len(left_RC) if reduction == "rows" else left_RC.numel()
    return total / max(count, 1)
