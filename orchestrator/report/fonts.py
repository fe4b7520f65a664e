"""A font that has the letters of a text: the one that comes with Matplotlib, or one of the machine's."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

DEFAULT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""Has Latin, Greek, Cyrillic, Arabic, Hebrew and many symbols."""

WIDE = ("Noto Sans", "Source Han", "WenQuanYi", "Droid Sans Fallback", "PingFang", "YaHei", "Arial Unicode", "Unifont")
"""Families that are looked through for what the default lacks."""


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the font that has the most letters of a text; what it still lacks is drawn as boxes.

    Args:
        text: what is to be written.
        size: in pixels.
    """
    letters = {ord(letter) for letter in text if not letter.isspace()}
    if letters <= _letters(DEFAULT):
        return _font(DEFAULT, size)
    best = max((DEFAULT, *_wide_fonts()), key=lambda path: len(letters & _letters(path)))
    return _font(best, size)


@cache
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _letters(path: Path) -> frozenset[int]:
    return frozenset(FT2Font(str(path)).get_charmap())


@cache
def _wide_fonts() -> tuple[Path, ...]:
    found = {entry.fname for entry in font_manager.fontManager.ttflist if entry.name.startswith(WIDE)}
    return tuple(sorted(Path(name) for name in found if "Emoji" not in name))
