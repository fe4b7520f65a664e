"""The scores that a retrieval evaluation rests on. Shapes: T texts, I images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about every text with every image.

    Args:
        similarity_TI: cosine similarity of the embeddings.
        relevant_TI: bool.
        match_TI: match logits of the re-ranked pairs, -inf elsewhere; None without re-ranking.
        top: items per query that were re-ranked.
    """

    similarity_TI: Tensor
    relevant_TI: Tensor
    match_TI: Tensor | None
    top: int
