"""How keys and values are written in tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.report.formats import short_count
from orchestrator.sweep.reporting.configurations import Score

LONGEST = 18
"""Letters of a value in a figure; more would not fit."""

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


def value_text(value: Any) -> str:
    """Write a value of a searched key in full."""
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {value_text(inner)}" for key, inner in value.items())
    return json.dumps(value, default=str)


def number_text(number: float) -> str:
    """Write a number of any size with three significant digits."""
    return short_count(float(f"{number:.3g}")) if 1e3 <= abs(number) < 1e12 else f"{number:.3g}"


def score_text(score: Score) -> str:
    """Write a score as its mean, with as many digits as tell configurations apart, and its spread."""
    mean = f"{score.mean:.4g}"
    return mean if score.spread is None else f"{mean} {PLUS_MINUS} {score.spread:.2g}"


def tick_text(number: float) -> str:
    """Write a number at an axis whose neighbours may differ in late digits only."""
    return short_count(float(f"{number:.6g}"))


def label(text: str, letters: int = LONGEST) -> str:
    """Return a text that fits into a figure, where a dollar sign means nothing.

    Args:
        text: in full.
        letters: that there is room for.
    """
    line = " ".join(text.split())
    short = line if len(line) <= letters else f"{line[: letters - 1]}…"
    return plain(short)


def plain(text: str) -> str:
    """Return a text in which a dollar sign does not begin a formula."""
    return " ".join(text.split()).replace("$", r"\$")
