"""Image-text contrastive learning against momentum keys (ALBEF section 3.2, equation 1, and 3.3, equation 6).

With it stands what momentum distillation needs: targets mixed from the labels and the teacher's predictions (ALBEF
section 3.3).

Shapes: B pairs of the micro-batch, E embedding width, Q queue size, R rows, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Keys(NamedTuple):
    """The keys that queries of the other modality are compared with (MoCo, He et al. 2020).

    Args:
        batch_BE: momentum features of the micro-batch; row i is the match of query i.
        queue_EQ: momentum features of earlier steps.
    """

    batch_BE: Tensor
    queue_EQ: Tensor


class Similarities(NamedTuple):
    """Similarities divided by the temperature, [B, B + Q] each; column i is the match of row i."""

    image_to_text: Tensor
    text_to_image: Tensor


def similarities(
    image_BE: Tensor, text_BE: Tensor, image_keys: Keys, text_keys: Keys, temperature: Tensor
) -> Similarities:
    """Compare image and text features with the momentum features of the other modality.

    Computed in at least float32, also under autocast: after division by a temperature of 0.07 bfloat16 products
    have an error of about 0.05.
    """
    with torch.autocast(image_BE.device.type, enabled=False):
        return Similarities(_logits(image_BE, text_keys, temperature), _logits(text_BE, image_keys, temperature))


def same_image(image_id_B: Tensor, key_id_K: Tensor) -> Tensor:
    """Return bool [B, K]: which keys are of the image that a query is of, by the images' ids.

    In ALBEF's fine-tuning for retrieval they are all right answers, since an image has several captions.
    """
    return image_id_B[:, None] == key_id_K


@torch.no_grad()
def contrastive_targets(teacher: Similarities, alpha: float, positive_BK: Tensor | None = None) -> Similarities:
    """Return alpha * softmax(teacher) + (1 - alpha) * labels, [B, B + Q] each, without gradient.

    Args:
        teacher: its similarities.
        alpha: their weight.
        positive_BK: bool [B, B + Q]: the keys that are right for each query, among which the label is shared evenly;
            without it, the match alone.
    """
    return Similarities(*(_soft_targets(logits, alpha, positive_BK) for logits in teacher))


def contrastive_loss(student: Similarities, targets: Similarities) -> Tensor:
    """Return the mean over both directions and all rows of the cross entropy with soft targets.

    The paper writes a divergence; the cross entropy has the same gradient and is what the official code reports.
    """
    rows = [soft_cross_entropy(logits, target) for logits, target in zip(student, targets, strict=True)]
    return torch.stack(rows).mean()


def _logits(query_BE: Tensor, keys: Keys, temperature: Tensor) -> Tensor:
    query_BE, batch_BE = at_least_float32(query_BE), at_least_float32(keys.batch_BE)
    return torch.cat([query_BE @ batch_BE.T, query_BE @ keys.queue_EQ], 1) / temperature


def _soft_targets(logits: Tensor, alpha: float, positive_BK: Tensor | None) -> Tensor:
    targets = alpha * logits.softmax(1) if alpha else torch.zeros_like(logits)
    if positive_BK is None:
        targets.diagonal().add_(1 - alpha)
        return targets
    labels_BK = positive_BK.to(logits.dtype)
    return targets.add_(labels_BK / labels_BK.sum(1, keepdim=True), alpha=1 - alpha)


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
    """Return the mean, or without rows a zero that is still part of the graph."""
    return values_R.sum() / max(len(values_R), 1)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor in float32 if it is of half precision, else unchanged."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
