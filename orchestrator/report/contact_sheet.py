"""Samples as one picture: a grid of images with their captions underneath."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from orchestrator.report.fonts import font_for
from orchestrator.report.palette import LIGHT
from orchestrator.report.pictures import encode

SIDE = 224
GAP = 16
TEXT_SIZE = 14
LINE = 18
MOST_LINES = 5
LONGEST = 400
"""Letters of a text that are looked at; more would not fit."""

MOST_COLUMNS = 8
_TEXT_TOP = SIDE + 6


@dataclass(frozen=True, slots=True)
class Tile:
    """One sample.

    Args:
        image: decoded; None when that failed.
        caption: what is written under it, or what is wrong with it.
        key: written below the caption.
    """

    image: Image.Image | None
    caption: str
    key: str


def contact_sheet(tiles: Sequence[Tile]) -> bytes:
    """Return a PNG with all tiles, row by row.

    Args:
        tiles: at least one.
    """
    columns = min(MOST_COLUMNS, max(1, round((1.3 * len(tiles)) ** 0.5)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    captions = [[wrapped(tile.caption, SIDE) for tile in row] for row in rows]
    heights = [_TEXT_TOP + LINE * (max(map(len, texts)) + 1) + GAP for texts in captions]
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + sum(heights)), LIGHT["paper"])
    top = GAP
    for row, texts, height in zip(rows, captions, heights, strict=True):
        for column, (tile, lines) in enumerate(zip(row, texts, strict=True)):
            _draw(sheet, tile, lines, GAP + column * (SIDE + GAP), top)
        top += height
    return encode(sheet)


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines of at most `width` pixels, broken between words where there are any.

    Letters that cannot be written, such as line breaks, become blanks; what is too long ends in an ellipsis.
    """
    clean = _clean(text)
    font = font_for(clean, TEXT_SIZE)
    lines = list(_lines(clean, font, width))
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], _shortened(lines[MOST_LINES - 1], font, width)]
    return lines


def _draw(sheet: Image.Image, tile: Tile, lines: Sequence[str], left: int, top: int) -> None:
    drawing = ImageDraw.Draw(sheet)
    drawing.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=LIGHT["panel"])
    if tile.image is not None:
        picture = ImageOps.contain(tile.image, (SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    colour = LIGHT["bad" if tile.image is None else "ink"]
    for number, line in enumerate(lines):
        _write(drawing, (left, top + _TEXT_TOP + LINE * number), line, colour)
    _write(drawing, (left, top + _TEXT_TOP + LINE * len(lines)), _one_line(_clean(tile.key)), LIGHT["muted"])


def _one_line(text: str) -> str:
    font = font_for(text, TEXT_SIZE)
    return text if font.getlength(text) <= SIDE else _shortened(text, font, SIDE)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    return _fitting(text, font, width - font.getlength("…")) + "…"


def _write(drawing: ImageDraw.ImageDraw, place: tuple[int, int], line: str, colour: str) -> None:
    drawing.text(place, line, fill=colour, font=font_for(line, TEXT_SIZE))


def _clean(text: str) -> str:
    short = text[:LONGEST].encode("utf-8", "replace").decode()
    return " ".join("".join(letter if letter.isprintable() else " " for letter in short).split())


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    line = ""
    for part in _parts(text, font, width):
        longer = f"{line} {part}".strip()
        if font.getlength(longer) <= width:
            line = longer
        else:
            yield line
            line = part
    if line:
        yield line


def _parts(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Yield the words of a text, those that are too wide for a line in pieces."""
    for word in text.split():
        rest = word
        while rest:
            part = _fitting(rest, font, width)
            yield part
            rest = rest[len(part) :]


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return the longest beginning of a text that fits, at least one letter."""
    length = len(text)
    while length > 1 and font.getlength(text[:length]) > width:
        length -= 1
    return text[:length]
