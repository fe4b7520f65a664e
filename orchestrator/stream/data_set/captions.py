"""Captions as shards hold them."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.contract import BadSample


def captions_of(value: object) -> tuple[str, ...]:
    """Return the captions in a cell: a text, a list of texts, or nothing.

    Raises:
        BadSample: there is something else in it.
    """
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(caption, str) for caption in values):
        raise BadSample("caption is not text", repr(value)[:80])
    return tuple(values)


def words_of(captions: Sequence[str]) -> tuple[int, ...]:
    """Return how many words each caption has."""
    return tuple(len(caption.split()) for caption in captions)
