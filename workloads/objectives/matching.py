"""Image-text matching with in-batch negatives (ALBEF section 3.2, equation 2), and a micro-batch's random choices.

Shapes: B pairs of the micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.contract import KeyedRandom
from workloads.nn.bert import PairIndices
from workloads.objectives.contrastive import Similarities, at_least_float32
from workloads.objectives.masked_language import MaskedText, mask_tokens


class Negatives(NamedTuple):
    """A wrong image for each text and a wrong text for each image, as rows of the micro-batch, [B] each."""

    image_for_text: Tensor
    text_for_image: Tensor


@torch.no_grad()
def negative_weights(logits_BB: Tensor, match_BB: Tensor, hard: bool) -> Tensor:
    """Return the probability of each other pair to become a row's negative, [B, B], 0 where it would match.

    Matches are masked before the softmax: masking afterwards, as the official code does, gives the same distribution
    up to a factor, but leaves rows whose sum underflows to 0 once the temperature is low. NaN scores count as 0, so
    that a non-finite loss is reported as such instead of failing here.

    Args:
        logits_BB: similarities divided by the temperature.
        match_BB: True where a column matches a row; no row may match all columns.
        hard: weight by similarity, else uniformly.
    """
    scores_BB = at_least_float32(logits_BB).nan_to_num() if hard else torch.zeros_like(logits_BB)
    return scores_BB.masked_fill(match_BB, -torch.inf).softmax(1)


def sample_negatives(weights_BB: Tensor, generator: torch.Generator) -> Tensor:
    """Return one column per row, drawn with these weights, [B]."""
    return torch.multinomial(weights_BB, 1, generator=generator).squeeze(1)


def matching_pairs(negatives: Negatives) -> PairIndices:
    """Return B matches, then B texts with a wrong image, then B images with a wrong text."""
    row = torch.arange(len(negatives.image_for_text), device=negatives.image_for_text.device)
    return PairIndices(
        text_R=torch.cat([row, row, negatives.text_for_image]), image_R=torch.cat([row, negatives.image_for_text, row])
    )


def matching_loss(logits: Tensor) -> Tensor:
    """Return the mean cross entropy of [3 B, 2] logits in the order of `matching_pairs`; index 1 means match."""
    labels = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    labels[: len(logits) // 3] = 1
    return F.cross_entropy(at_least_float32(logits), labels)


class RandomChoices(Protocol):
    """The random choices of a micro-batch other than dropout; a protocol, so that recorded choices can replace them."""

    def masked(self, input_ids_BL: Tensor) -> MaskedText:
        """Choose the tokens to predict."""
        ...

    def negatives(self, logits: Similarities, match_BB: Tensor) -> Negatives:
        """Draw negatives by the in-batch similarities, [B, B] each, where `match_BB` is False."""
        ...


@dataclass(frozen=True, slots=True)
class KeyedChoices:
    """Choices that are a pure function of a key.

    Args:
        draw: randomness keyed by the micro-batch.
        vocabulary: number of word pieces.
        mask_probability: probability that a token is masked.
        hard_negatives: draw negatives by similarity, else uniformly.
    """

    draw: KeyedRandom
    vocabulary: int
    mask_probability: float
    hard_negatives: bool

    def masked(self, input_ids_BL: Tensor) -> MaskedText:
        """Choose the tokens to predict."""
        generator = self.draw.child("mask").torch(input_ids_BL.device)
        return mask_tokens(input_ids_BL, self.vocabulary, self.mask_probability, generator)

    def negatives(self, logits: Similarities, match_BB: Tensor) -> Negatives:
        """Draw negatives by the in-batch similarities, [B, B] each, where `match_BB` is False."""
        return Negatives(
            image_for_text=self._negative("negative image", logits.text_to_image, match_BB),
            text_for_image=self._negative("negative text", logits.image_to_text, match_BB),
        )

    def _negative(self, purpose: str, logits_BB: Tensor, match_BB: Tensor) -> Tensor:
        weights_BB = negative_weights(logits_BB, match_BB, self.hard_negatives)
        return sample_negatives(weights_BB, self.draw.child(purpose).torch(logits_BB.device))
