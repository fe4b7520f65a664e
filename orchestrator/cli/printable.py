"""Text from data sets, made safe to print: it could hold anything, the terminal's own commands included."""

from __future__ import annotations

JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""Needed to write Persian, Hindi and others."""


def printable(text: str) -> str:
    """Return a text with control characters and other letters that cannot be printed written as escapes."""
    return "".join(
        letter if letter.isprintable() or letter in JOINERS else letter.encode("unicode_escape").decode()
        for letter in text
    )
