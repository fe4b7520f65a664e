"""Image-text contrastive learning against momentum keys (ALBEF section 3.2, equation 1, and 3.3, equation 6).

Shapes: B pairs of the micro-batch, E embedding width, Q queue size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Keys(NamedTuple):
    """What queries of the other modality are compared with.

    Args:
        own_BE: momentum features of the micro-batch; row i is the match of query i.
        queue_EQ: momentum features of earlier steps.
    """

    own_BE: Tensor
    queue_EQ: Tensor


class Similarities(NamedTuple):
    """Similarities over the temperature, [B, B + Q] each; column i is the match of row i."""

    image_to_text: Tensor
    text_to_image: Tensor


def similarities(
    image_BE: Tensor, text_BE: Tensor, image_keys: Keys, text_keys: Keys, temperature: Tensor
) -> Similarities:
    """Compare image and text features with the momentum features of the other modality.

    Computed in at least float32, also under autocast: bfloat16 products would be off by about 0.05 after division
    by a temperature of 0.07.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        return Similarities(_logits(image_BE, text_keys, temperature), _logits(text_BE, image_keys, temperature))


@torch.no_grad()
def contrastive_targets(teacher: Similarities, alpha: float) -> Similarities:
    """Return alpha * softmax(teacher) + (1 - alpha) * one-hot(match), [B, B + Q] each, without gradient."""
    return Similarities(*(_mixed(logits, alpha) for logits in teacher))


def contrastive_loss(student: Similarities, targets: Similarities) -> Tensor:
    """Return the mean over both directions and all rows of the cross entropy with soft targets.

    The paper writes a divergence; the cross entropy has the same gradient and is what the official code reports.
    """
    rows = [soft_cross_entropy(logits, target) for logits, target in zip(student, targets, strict=True)]
    return torch.stack(rows).mean()


def _logits(query_BE: Tensor, keys: Keys, temperature: Tensor) -> Tensor:
    query_BE, own_BE = at_least_float32(query_BE), at_least_float32(keys.own_BE)
    return torch.cat([query_BE @ own_BE.T, query_BE @ keys.queue_EQ], 1) / temperature


def _mixed(logits: Tensor, alpha: float) -> Tensor:
    targets = alpha * logits.softmax(1) if alpha else torch.zeros_like(logits)
    targets.diagonal().add_(1 - alpha)
    return targets


# Momentum distillation: targets mixed from the labels and the teacher's predictions (ALBEF section 3.3).
#
# Shapes: R rows, C classes.


def ramped_alpha(alpha: float, ramp_epochs: float, epoch: float) -> float:
    """Return the weight of the soft targets, growing linearly from 0 to `alpha` over the first epochs.

    Args:
        alpha: final weight.
        ramp_epochs: length of the ramp in epochs; 0 for no ramp.
        epoch: epochs completed, with the fraction of the current one.
    """
    return alpha * min(1.0, epoch / ramp_epochs) if ramp_epochs else alpha


def soft_cross_entropy(logits_RC: Tensor, targets_RC: Tensor) -> Tensor:
    """Return -sum(target * log softmax(logit)) of each row, [R]."""
    return -(targets_RC * at_least_float32(logits_RC).log_softmax(1)).sum(1)


def mean_or_zero(values_R: Tensor) -> Tensor:
    """Return the mean, or a zero that still belongs to the graph when there are no rows."""
    return values_R.sum() / max(len(values_R), 1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 if it is half precision, else unchanged."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
