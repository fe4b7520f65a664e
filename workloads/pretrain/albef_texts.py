"""The captions of a micro-batch, plain and masked.

Shapes: B captions, T texts (the captions, then their masked versions), L tokens, M masked tokens of all captions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from workloads.contract import Batch
from workloads.objectives.draws import Draws
from workloads.objectives.masked_language import UNMASKED


class MaskedTokens(NamedTuple):
    """The tokens to predict: their caption, their position in it and their original id, [M] each."""

    caption: Tensor
    position: Tensor
    label: Tensor


class Texts(NamedTuple):
    """Captions and, when masking is trained, their masked versions below them.

    Args:
        input_ids_TL: token ids, cut to the longest caption.
        mask_TL: True at tokens, False at padding.
        captions: B.
        masked: the tokens to predict; None when masking is not trained.
    """

    input_ids_TL: Tensor
    mask_TL: Tensor
    captions: int
    masked: MaskedTokens | None


def read_texts(batch: Batch, draws: Draws | None) -> Texts:
    """Return the texts of a micro-batch.

    Args:
        batch: `input_ids` [B, max_tokens], padded with zeros, and `length` [B].
        draws: chooses the tokens to predict; None when masking is not trained.
    """
    length_B = batch["length"]
    input_ids_BL = batch["input_ids"][:, : int(length_B.max())].long()
    mask_BL = torch.arange(input_ids_BL.shape[1], device=length_B.device) < length_B[:, None]
    if draws is None:
        return Texts(input_ids_BL, mask_BL, len(input_ids_BL), None)
    masked = draws.masked(input_ids_BL)
    caption, position = (masked.labels != UNMASKED).nonzero(as_tuple=True)
    tokens = MaskedTokens(caption, position, masked.labels[caption, position])
    return Texts(torch.cat([input_ids_BL, masked.input_ids]), mask_BL.repeat(2, 1), len(input_ids_BL), tokens)
