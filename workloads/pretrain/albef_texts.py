"""The captions of a micro-batch, plain and masked.

Shapes: B captions, T texts (the captions, then their masked versions), L tokens, M masked tokens of all captions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.contract import Batch
from workloads.nn.vocabulary import PAD
from workloads.objectives.draws import Draws
from workloads.objectives.masked_language import UNMASKED
from workloads.pretrain.albef_config import ComputeConfig


class MaskedTokens(NamedTuple):
    """The tokens to predict.

    Args:
        caption: their caption, [P] with P >= M: behind them stand first tokens that fill up the shape.
        position: their position in it, [P].
        label: their original id, [M].
    """

    caption: Tensor
    position: Tensor
    label: Tensor


class Texts(NamedTuple):
    """Captions and, when masking is trained, their masked versions below them.

    Args:
        input_ids_TL: token ids, cut to the longest caption, or a little longer.
        mask_TL: True at tokens, False at padding.
        captions: B.
        masked: the tokens to predict; None when masking is not trained.
    """

    input_ids_TL: Tensor
    mask_TL: Tensor
    captions: int
    masked: MaskedTokens | None


def read_texts(batch: Batch, draws: Draws | None, compute: ComputeConfig) -> Texts:
    """Return the texts of a micro-batch.

    Args:
        batch: `input_ids` [B, max_tokens], of which row i counts the first `length[i]`, and `length` [B].
        draws: chooses the tokens to predict; None when masking is not trained.
        compute: which shapes may occur.
    """
    length_B, longest = batch["length"], int(batch["length"].max())
    shape = _rounded_up(longest, compute.length_multiple)
    mask_BL = torch.arange(shape, device=length_B.device) < length_B[:, None]
    input_ids_BL = batch["input_ids"][:, :longest].long().masked_fill(~mask_BL[:, :longest], PAD)
    if draws is None:
        return Texts(_filled(input_ids_BL, shape), mask_BL, len(input_ids_BL), None)
    masked = draws.masked(input_ids_BL)
    caption, position = (masked.labels != UNMASKED).nonzero(as_tuple=True)
    label = masked.labels[caption, position]
    places = _rounded_up(len(label), compute.masked_multiple)
    tokens = MaskedTokens(_filled(caption, places), _filled(position, places), label)
    input_ids_TL = torch.cat([input_ids_BL, masked.input_ids])
    return Texts(_filled(input_ids_TL, shape), mask_BL.repeat(2, 1), len(input_ids_BL), tokens)


def _rounded_up(count: int, multiple: int) -> int:
    return math.ceil(count / multiple) * multiple


def _filled(tensor: Tensor, length: int) -> Tensor:
    """Return the tensor with zeros at its end: the id of padding, and the number of the first row and token."""
    return F.pad(tensor, (0, length - tensor.shape[-1]))
