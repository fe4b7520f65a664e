"""How image-text retrieval is evaluated. Known without torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from workloads.contract import EvaluationOptions


class RetrievalOptions(EvaluationOptions):
    """Options of image-text retrieval."""

    rerank: int = Field(
        16, ge=0, description="Candidates per query that the fusion model ranks again, after the training; 0: none."
    )
    gallery: int = Field(12, ge=0, description="Captions to show with what they retrieve.")
    heat_maps: int = Field(6, ge=0, description="Captions to show with where their words look.")

    def while_training(self) -> Self:
        """Return the options of a ranking by similarity alone, without examples."""
        return self.model_copy(update={"rerank": 0, "gallery": 0, "heat_maps": 0})
