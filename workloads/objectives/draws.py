"""The random choices inside a micro-batch, behind one protocol so that recorded ones can take their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from workloads.contract import KeyedRandom
from workloads.objectives.contrastive import Similarities
from workloads.objectives.masked_language import MaskedText, mask_tokens
from workloads.objectives.matching import Negatives, draw_negatives, negative_weights


class Draws(Protocol):
    """What a micro-batch leaves to chance, dropout aside."""

    def masked(self, input_ids_BL: Tensor) -> MaskedText:
        """Choose the tokens to predict."""
        ...

    def negatives(self, logits: Similarities) -> Negatives:
        """Choose wrong partners by the similarities to the micro-batch's own keys, [B, B] each."""
        ...


@dataclass(frozen=True, slots=True)
class KeyedDraws:
    """Choices that are a pure function of a key.

    Args:
        draw: randomness keyed by the micro-batch.
        vocabulary: word pieces.
        mask_probability: chance that a token is masked.
        hard_negatives: draw negatives by similarity, else evenly.
    """

    draw: KeyedRandom
    vocabulary: int
    mask_probability: float
    hard_negatives: bool

    def masked(self, input_ids_BL: Tensor) -> MaskedText:
        """Choose the tokens to predict."""
        generator = self.draw.child("mask").torch(input_ids_BL.device)
        return mask_tokens(input_ids_BL, self.vocabulary, self.mask_probability, generator)

    def negatives(self, logits: Similarities) -> Negatives:
        """Choose wrong partners by the similarities to the micro-batch's own keys, [B, B] each."""
        return Negatives(
            image_for_text=self._negative("negative image", logits.text_to_image),
            text_for_image=self._negative("negative text", logits.image_to_text),
        )

    def _negative(self, purpose: str, logits_BB: Tensor) -> Tensor:
        weights_BB = negative_weights(logits_BB, self.hard_negatives)
        return draw_negatives(weights_BB, self.draw.child(purpose).torch(logits_BB.device))
