"""The objectives of the fusion layers, matching and masked language, as one function of encoded texts and images.

Shapes: B captions and images, T texts (captions, then masked captions), R texts that meet an image, L text tokens,
N image tokens, M masked tokens, P masked tokens and filling, D text width, C image width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.nn.bert import Meetings, Wanted
from workloads.objectives.masked_language import masked_language_loss
from workloads.objectives.matching import matching_loss
from workloads.pretrain.albef_model import Student
from workloads.pretrain.albef_texts import Texts


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
class FusionTask:
    """Matching and masked language of one micro-batch, in a single pass through the fusion layers.

    Args:
        student: the model.
        texts: captions and masked captions.
        pairs: which caption meets which image for matching; None when that is off or has no negatives.
        teacher_MV: soft targets of the masked tokens, if any.
        alpha: their weight.
    """

    student: Student
    texts: Texts
    pairs: Meetings | None
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

    def _meetings(self, device: torch.device) -> tuple[Meetings, Wanted]:
        none = torch.arange(0, device=device)
        pairs = self.pairs or Meetings(none, none)
        first = Wanted.first(len(pairs.text_R), device)
        if self.texts.masked is None:
            return pairs, first
        own = torch.arange(self.texts.captions, device=device)
        meetings = Meetings(torch.cat([pairs.text_R, own + len(own)]), torch.cat([pairs.image_R, own]))
        caption_M, position_M, _ = self.texts.masked
        wanted = Wanted(
            torch.cat([first.meeting_P, caption_M + len(first.meeting_P)]), torch.cat([first.token_P, position_M])
        )
        return meetings, wanted
