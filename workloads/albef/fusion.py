"""The objectives of the fusion layers, matching and masked language, as one function of encoded texts and images.

Shapes: B captions and images, T texts (captions, then masked captions), R texts that meet an image, L text tokens,
N image tokens, M masked tokens, P masked tokens and filling, D text width, C image width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.albef.config import ComputeConfig
from workloads.albef.model import Student
from workloads.contract import Batch
from workloads.nn.bert import PairIndices, TokenSelection
from workloads.nn.vocabulary import PAD
from workloads.objectives.masked_language import IGNORE_INDEX, masked_language_loss
from workloads.objectives.matching import RandomChoices, matching_loss

# The captions of a micro-batch, plain and masked.
#
# Shapes: B captions, T texts (the captions, then their masked versions), L tokens, M masked tokens of all captions.


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


class TextBatch(NamedTuple):
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


def prepare_texts(batch: Batch, choices: RandomChoices | None, compute: ComputeConfig) -> TextBatch:
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
    if choices is None:
        return TextBatch(_filled(input_ids_BL, shape), mask_BL, len(input_ids_BL), None)
    masked = choices.masked(input_ids_BL)
    caption, position = (masked.labels != IGNORE_INDEX).nonzero(as_tuple=True)
    label = masked.labels[caption, position]
    places = _rounded_up(len(label), compute.masked_multiple)
    tokens = MaskedTokens(_filled(caption, places), _filled(position, places), label)
    input_ids_TL = torch.cat([input_ids_BL, masked.input_ids])
    return TextBatch(_filled(input_ids_TL, shape), mask_BL.repeat(2, 1), len(input_ids_BL), tokens)


def _rounded_up(count: int, multiple: int) -> int:
    return math.ceil(count / multiple) * multiple


def _filled(tensor: Tensor, length: int) -> Tensor:
    """Return the tensor with zeros at its end: the id of padding, and the number of the first row and token."""
    return F.pad(tensor, (0, length - tensor.shape[-1]))


# The objectives of the fusion layers, matching and masked language, as one function of encoded texts and images.


@dataclass(frozen=True, slots=True)
class FusionLosses:
    """Losses of the fusion objectives, zero where one is off, and the logits behind them."""

    matching: Tensor
    masked_language: Tensor
    logits: tuple[Tensor, ...]

    @property
    def total(self) -> Tensor:
        """The sum of the losses."""
        return self.matching + self.masked_language


@dataclass(frozen=True, slots=True)
class FusionObjectives:
    """Matching and masked language of one micro-batch, in a single pass through the fusion layers.

    Args:
        student: the model.
        texts: captions and masked captions.
        pairs: which caption meets which image for matching; None when that is off or has no negatives.
        teacher_MV: soft targets of the masked tokens, if any.
        alpha: their weight.
    """

    student: Student
    texts: TextBatch
    pairs: PairIndices | None
    teacher_MV: Tensor | None
    alpha: float

    def __call__(self, states_TLD: Tensor, image_BNC: Tensor) -> FusionLosses:
        """Return the losses for states of the text layers and image tokens."""
        meetings, wanted = self._meetings(image_BNC.device)
        fused_PD = self.student.bert.fuse(states_TLD, self.texts.mask_TL, image_BNC, meetings, wanted)
        matches = 0 if self.pairs is None else len(self.pairs.text_R)
        return self._losses(fused_PD[:matches], fused_PD[matches:])

    def _losses(self, matched_RD: Tensor, masked_PD: Tensor) -> FusionLosses:
        matching = masked_language = matched_RD.new_zeros(())
        logits = []
        if self.pairs is not None:
            logits.append(self.student.match_logits(matched_RD))
            matching = matching_loss(logits[-1])
        if self.texts.masked is not None:
            label_M = self.texts.masked.label
            logits.append(self.student.text_encoder.word_logits(masked_PD)[: len(label_M)])
            masked_language = masked_language_loss(logits[-1], label_M, self.teacher_MV, self.alpha)
        return FusionLosses(matching, masked_language, tuple(logits))

    def _meetings(self, device: torch.device) -> tuple[PairIndices, TokenSelection]:
        none = torch.arange(0, device=device)
        pairs = self.pairs or PairIndices(none, none)
        first = TokenSelection.cls_tokens(len(pairs.text_R), device)
        if self.texts.masked is None:
            return pairs, first
        own = torch.arange(self.texts.captions, device=device)
        meetings = PairIndices(torch.cat([pairs.text_R, own + len(own)]), torch.cat([pairs.image_R, own]))
        caption_M, position_M, _ = self.texts.masked
        wanted = TokenSelection(
            torch.cat([first.pair_P, caption_M + len(first.pair_P)]), torch.cat([first.token_P, position_M])
        )
        return meetings, wanted
