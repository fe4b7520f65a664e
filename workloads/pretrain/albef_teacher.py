"""What the momentum teacher says about a micro-batch, without gradients.

Shapes: B captions and images, T texts, M masked tokens, P masked tokens and filling, E embedding width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workloads.nn.bert import Meetings, Wanted
from workloads.objectives.distillation import at_least_float32
from workloads.pretrain.albef_config import AlbefConfig
from workloads.pretrain.albef_model import Encoders
from workloads.pretrain.albef_texts import Texts


class MomentumFeatures(NamedTuple):
    """Unit vectors of images and captions, [B, E] each: contrastive keys now, entries of the queue later."""

    image_BE: Tensor
    text_BE: Tensor


class TeacherOutputs(NamedTuple):
    """What the teacher said; None where the recipe has no use for it.

    Args:
        features: of the images and captions.
        words_MV: probabilities of the masked tokens.
    """

    features: MomentumFeatures | None
    words_MV: Tensor | None


@torch.no_grad()
def ask_teacher(
    teacher: Encoders, config: AlbefConfig, image_B3HW: Tensor, texts: Texts, alpha: float
) -> TeacherOutputs:
    """Run the parts of the teacher that the recipe needs at this weight of its targets."""
    asks_words = texts.masked is not None and config.distillation.masked_language and alpha > 0
    if not (config.contrastive.enabled or asks_words):
        return TeacherOutputs(None, None)
    rows = slice(None) if asks_words else slice(texts.captions)
    tokens_BNC = teacher.image_tokens(image_B3HW)
    states_TLD = teacher.bert.encode(teacher.bert.words(texts.input_ids_TL[rows]), texts.mask_TL[rows])
    captions_BLD = states_TLD[: texts.captions]
    return TeacherOutputs(
        MomentumFeatures(teacher.image_embedding(tokens_BNC), teacher.text_embedding(captions_BLD)),
        _masked_words(teacher, states_TLD, tokens_BNC, texts) if asks_words else None,
    )


def _masked_words(teacher: Encoders, states_TLD: Tensor, tokens_BNC: Tensor, texts: Texts) -> Tensor | None:
    if texts.masked is None:
        return None
    below = slice(texts.captions, None)
    meetings = Meetings.one_to_one(texts.captions, tokens_BNC.device)
    wanted = Wanted(texts.masked.caption, texts.masked.position)
    fused_PD = teacher.bert.fuse(states_TLD[below], texts.mask_TL[below], tokens_BNC, meetings, wanted)
    logits_MV = teacher.text_encoder.word_logits(fused_PD)[: len(texts.masked.label)]
    return at_least_float32(logits_MV).softmax(1)
