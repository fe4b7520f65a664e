"""The names of the figures of retrieval, known without torch."""

from __future__ import annotations

RECALL_AT = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")


def retrieval_names() -> tuple[str, ...]:
    """Return the names of all figures of an evaluation without re-ranking."""
    figures = [f"{kind}@{k}" for kind in ("recall", "chance") for k in RECALL_AT] + ["median_rank", "mean_rank"]
    return (*(f"{direction}/{figure}" for direction in DIRECTIONS for figure in figures), "skipped")
