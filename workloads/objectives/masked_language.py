"""Masked language modelling (ALBEF section 3.2, equation 3, and 3.3, equation 7, after BERT, Devlin et al. 2019).

Shapes: B texts, L tokens, M masked tokens of all texts, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workloads.nn.vocabulary import CLS, MASK, PAD
from workloads.objectives.contrastive import at_least_float32, mean_or_zero

IGNORE_INDEX = -100
"""Label of a token that is not to be predicted (torch's default `ignore_index`)."""


class MaskedText(NamedTuple):
    """Texts with some tokens replaced.

    Args:
        input_ids: [B, L].
        labels: the original ids where a token is to be predicted, UNMASKED elsewhere, [B, L].
    """

    input_ids: Tensor
    labels: Tensor


def mask_tokens(input_ids_BL: Tensor, vocabulary: int, probability: float, generator: torch.Generator) -> MaskedText:
    """Choose tokens to predict; 80 % become [MASK], 10 % a random word piece, 10 % are unchanged.

    [PAD] and [CLS] are never chosen.
    """
    chosen_BL = _bernoulli(input_ids_BL, probability, generator) & (input_ids_BL != PAD) & (input_ids_BL != CLS)
    hidden_BL = chosen_BL & _bernoulli(input_ids_BL, 0.8, generator)
    random_BL = chosen_BL & ~hidden_BL & _bernoulli(input_ids_BL, 0.5, generator)
    words_BL = torch.randint(
        vocabulary, input_ids_BL.shape, generator=generator, device=input_ids_BL.device, dtype=input_ids_BL.dtype
    )
    replaced_BL = torch.where(random_BL, words_BL, input_ids_BL).masked_fill(hidden_BL, MASK)
    return MaskedText(replaced_BL, input_ids_BL.masked_fill(~chosen_BL, IGNORE_INDEX))


def masked_language_loss(logits_MV: Tensor, labels_M: Tensor, teacher_MV: Tensor | None, alpha: float) -> Tensor:
    """Return the mean over masked tokens of (1 - alpha) * hard + alpha * soft cross entropy; 0 when M is 0.

    Args:
        logits_MV: of the student.
        labels_M: original ids.
        teacher_MV: the teacher's probabilities; None to learn from the labels only.
        alpha: weight of the soft targets; unused without a teacher.
    """
    log_words_MV = at_least_float32(logits_MV).log_softmax(1)
    hard = mean_or_zero(-log_words_MV.gather(1, labels_M[:, None]).squeeze(1))
    if teacher_MV is None:
        return hard
    return (1 - alpha) * hard + alpha * mean_or_zero(-(teacher_MV * log_words_MV).sum(1))


def _bernoulli(like: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device) < probability
