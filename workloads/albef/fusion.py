"""The objectives of the fusion layers, matching and masked language, in a single pass over one micro-batch.

Shapes: B captions and images, T texts (captions, then their masked versions), R matching pairs, L text tokens, N image
tokens, M masked tokens of all captions, P masked tokens with filling, D text width, C image width, V vocabulary.
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


class MaskedTokens(NamedTuple):
    """The tokens to predict.

    Args:
        caption: row of their caption, [P] with P >= M: zeros at the end fill the shape.
        position: their position in it, [P].
        label: their original id, [M].
    """

    caption: Tensor
    position: Tensor
    label: Tensor


class TextBatch(NamedTuple):
    """Captions and, when masked language is trained, their masked versions below them.

    Args:
        input_ids_TL: token ids, cut to the longest caption rounded up to the recipe's multiple.
        mask_TL: True at tokens, False at padding.
        captions: number of captions, B.
        masked: the tokens to predict; None when masked language is not trained.
    """

    input_ids_TL: Tensor
    mask_TL: Tensor
    captions: int
    masked: MaskedTokens | None


def prepare_texts(batch: Batch, choices: RandomChoices | None, compute: ComputeConfig) -> TextBatch:
    """Return the texts of a micro-batch.

    Args:
        batch: `input_ids` [B, max_tokens], of which the first `length[i]` of row i are tokens, and `length` [B].
        choices: selects the tokens to predict; None when masked language is not trained.
        compute: multiples that shapes are rounded up to.
    """
    length_B, longest = batch["length"], int(batch["length"].max())
    padded_length = _rounded_up(longest, compute.length_multiple)
    mask_BL = torch.arange(padded_length, device=length_B.device) < length_B[:, None]
    input_ids_BL = batch["input_ids"][:, :longest].long().masked_fill(~mask_BL[:, :longest], PAD)
    if choices is None:
        return TextBatch(_zero_padded(input_ids_BL, padded_length), mask_BL, len(input_ids_BL), None)
    masked = choices.masked(input_ids_BL)
    caption, position = (masked.labels != IGNORE_INDEX).nonzero(as_tuple=True)
    label = masked.labels[caption, position]
    count = _rounded_up(len(label), compute.masked_multiple)
    tokens = MaskedTokens(_zero_padded(caption, count), _zero_padded(position, count), label)
    input_ids_TL = torch.cat([input_ids_BL, masked.input_ids])
    return TextBatch(_zero_padded(input_ids_TL, padded_length), mask_BL.repeat(2, 1), len(input_ids_BL), tokens)


def _rounded_up(count: int, multiple: int) -> int:
    return math.ceil(count / multiple) * multiple


def _zero_padded(tensor: Tensor, length: int) -> Tensor:
    """Append zeros: of ids the padding, of indices the first row and token."""
    return F.pad(tensor, (0, length - tensor.shape[-1]))


@dataclass(frozen=True, slots=True)
class FusionLosses:
    """Losses of the fusion objectives, zero where one is off, and the logits that they are computed from."""

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
        pairs: which caption is matched with which image; None when matching is off or has no negatives.
        teacher_MV: soft targets of the masked tokens, if any.
        alpha: weight of the soft targets.
    """

    student: Student
    texts: TextBatch
    pairs: PairIndices | None
    teacher_MV: Tensor | None
    alpha: float

    def __call__(self, states_TLD: Tensor, image_BNC: Tensor) -> FusionLosses:
        """Return the losses for states of the text layers and image tokens."""
        pairs, tokens = self._fused(image_BNC.device)
        fused_PD = self.student.bert.fuse(states_TLD, self.texts.mask_TL, image_BNC, pairs, tokens)
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

    def _fused(self, device: torch.device) -> tuple[PairIndices, TokenSelection]:
        """Return all pairs to fuse, matching first, and the tokens whose states the losses need."""
        empty = torch.arange(0, device=device)
        matching = self.pairs or PairIndices(empty, empty)
        cls_tokens = TokenSelection.cls_tokens(len(matching.text_R), device)
        if self.texts.masked is None:
            return matching, cls_tokens
        row = torch.arange(self.texts.captions, device=device)
        pairs = PairIndices(torch.cat([matching.text_R, row + len(row)]), torch.cat([matching.image_R, row]))
        caption_P, position_P, _ = self.texts.masked
        tokens = TokenSelection(
            torch.cat([cls_tokens.pair_P, caption_P + len(cls_tokens.pair_P)]),
            torch.cat([cls_tokens.token_P, position_P]),
        )
        return pairs, tokens
