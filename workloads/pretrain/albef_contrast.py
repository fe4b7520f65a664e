"""The contrastive objective of one micro-batch.

Shapes: B captions and images, T texts (captions, then masked captions).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workloads.objectives.contrastive import Keys, Similarities, contrastive_loss, contrastive_targets, similarities
from workloads.pretrain.albef_model import AlbefModel, Encoded
from workloads.pretrain.albef_teacher import MomentumFeatures


class Contrast(NamedTuple):
    """Outcome of comparing images with texts.

    Args:
        loss: 0 when the objective is off.
        own: similarities to the micro-batch's own keys, [B, B] each; even when the objective is off.
    """

    loss: Tensor
    own: Similarities


def no_contrast(encoded: Encoded) -> Contrast:
    """Return what stands for the objective when it is off."""
    image_BNC = encoded.image_BNC
    even_BB = image_BNC.new_zeros(len(image_BNC), len(image_BNC))
    return Contrast(image_BNC.new_zeros(()), Similarities(even_BB, even_BB))


def contrast(model: AlbefModel, encoded: Encoded, features: MomentumFeatures, alpha: float) -> Contrast:
    """Compare student with momentum features of the micro-batch and the queue.

    Args:
        model: student and queue.
        encoded: texts and images; the first B texts are the captions.
        features: the teacher's.
        alpha: weight of the teacher's similarities in the targets.
    """
    student, captions = model.student, len(encoded.image_BNC)
    image_keys = Keys(features.image_BE, model.queue.image_queue)
    text_keys = Keys(features.text_BE, model.queue.text_queue)
    image_BE = student.image_embedding(encoded.image_BNC)
    text_BE = student.text_embedding(encoded.states_TLD[:captions])
    compared = similarities(image_BE, text_BE, image_keys, text_keys, student.temp)
    with torch.no_grad():
        taught = similarities(*features, image_keys, text_keys, student.temp) if alpha else compared
    loss = contrastive_loss(compared, contrastive_targets(taught, alpha))
    return Contrast(loss, Similarities(*(logits[:, :captions].detach() for logits in compared)))
