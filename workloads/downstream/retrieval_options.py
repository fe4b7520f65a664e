"""How image-text retrieval is evaluated. Known without torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from workloads.contract import EvaluationOptions

Texts = Literal["distinct", "all"]
"""Whether equal captions are one text, or each a text of its own."""


class RetrievalOptions(EvaluationOptions):
    """Options of image-text retrieval."""

    rerank: int = Field(
        16, ge=0, description="Candidates per query that the fusion model ranks again, after the training; 0: none."
    )
    rerank_images: int | None = Field(
        None, ge=1, description="Images that are ranked again for a text; null: as many as rerank says."
    )
    rerank_texts: int | None = Field(
        None, ge=1, description="Texts that are ranked again for an image; null: as many as rerank says."
    )
    rerank_while_training: bool = Field(
        False,
        description="Whether candidates are ranked again in measurements while training, too; checkpoints can then be "
        "compared by held_out/reranked/r_mean, as in the official fine-tuning.",
    )
    texts: Texts = Field(
        "distinct",
        description="Whether equal captions are one text, or all captions count, as in the official procedure.",
    )
    gallery: int = Field(12, ge=0, description="Captions to show with what they retrieve.")
    heat_maps: int = Field(6, ge=0, description="Captions to show with where their words look.")

    @property
    def top_images(self) -> int:
        """Images that are ranked again for a text; 0 for none."""
        return (self.rerank_images or self.rerank) if self.rerank else 0

    @property
    def top_texts(self) -> int:
        """Texts that are ranked again for an image; 0 for none."""
        return (self.rerank_texts or self.rerank) if self.rerank else 0

    def while_training(self) -> Self:
        """Return the options of a ranking without examples, and by similarity alone unless said otherwise."""
        rerank = self.rerank if self.rerank_while_training else 0
        return self.model_copy(update={"rerank": rerank, "gallery": 0, "heat_maps": 0})
