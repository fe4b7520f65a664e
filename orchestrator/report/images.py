"""Images of reports: contact sheets of samples, tiles, thumbnails as `data:` URIs, and attention maps over images.

Shapes: H, W = map; Y, X = picture; C = colour channel.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import colormaps, font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, ImageOps

from orchestrator.report.html import LIGHT
from orchestrator.stream.dataset.images import decode as decode_stored
from orchestrator.stream.dataset.sidecar import Content, Unreadable
from workloads.contract import BadSample

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


def _write(drawing: ImageDraw.ImageDraw, position: tuple[int, int], line: str, colour: str) -> None:
    drawing.text(position, line, fill=colour, font=font_for(line, TEXT_SIZE))


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
    fonts = {entry.fname for entry in font_manager.fontManager.ttflist if entry.name.startswith(WIDE)}
    return tuple(sorted(Path(name) for name in fonts if "Emoji" not in name))


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample's image, as small as a tile, or what is wrong with the sample."""

    image: Image.Image | None
    fault: str = ""


def picture_of(content: Content) -> Picture:
    """Decode a sample's image."""
    if isinstance(content, Unreadable):
        return Picture(None, str(content.fault))
    try:
        image = decode_stored(content.image)
    except BadSample as fault:
        return Picture(None, str(fault))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Picture(image)


def tile_of(content: Content, picture: Picture, text: str = "") -> Tile:
    """Return a sample as a tile.

    Args:
        content: the sample.
        picture: its image.
        text: written under it instead of its first caption.
    """
    captions = () if isinstance(content, Unreadable) else content.captions
    return Tile(picture.image, text or picture.fault or next(iter(captions), ""), content.key)


def decode(data: bytes, what: str) -> Image.Image:
    """Decode an image as those of a data set are decoded: to RGB, with white for what is transparent.

    Args:
        data: the encoded file.
        what: names the image in the error.

    Raises:
        ValueError: when the bytes are not a readable image, or one that is larger than a data set's may be.
    """
    try:
        return decode_stored(data)
    except BadSample as fault:
        raise ValueError(f"{what} is not a readable image ({fault}); evaluate the run again") from fault


def encode(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def thumbnail(data: bytes, what: str, side: int = 192) -> bytes:
    """Return an image as PNG, at most `side` pixels wide and high.

    Raises:
        ValueError: when the bytes are not a readable image.
    """
    image = decode(data, what)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode(image)


def data_uri(png: bytes) -> str:
    """Return a PNG as a `data:` URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


COLOUR_MAP = "inferno"
"""Perceptually uniform, rising in lightness, so it reads in grey too."""

_COVER = 0.68


def overlay(image: bytes, map_HW: np.ndarray, side: int = 160) -> bytes:
    """Lay a map over an image and return a PNG.

    The image turns grey and shines through evenly, so equal weights have equal hues everywhere.

    Args:
        image: the encoded image file.
        map_HW: weights in [0, 1], [height, width]; enlarged bicubically to the picture.
        side: longer side of the result, pixels.

    Raises:
        ValueError: when the image cannot be read or the map is not a finite 2-D array.
    """
    if map_HW.ndim != 2 or not np.isfinite(map_HW).all():
        raise ValueError(f"a heat map is a finite array [height, width], got {map_HW.dtype} {map_HW.shape}")
    picture = _fit(decode(image, "the image under a heat map"), side)
    weight_YX = _enlarge(map_HW, picture.size)
    colour_YXC = _colours(weight_YX)
    grey_YXC = np.asarray(picture.convert("L"), dtype=np.float64)[..., None] / 255
    mixed_YXC = (1 - _COVER) * grey_YXC + _COVER * colour_YXC
    return encode(Image.fromarray(np.round(255 * mixed_YXC).astype(np.uint8)))


def scale_stops(count: int = 9) -> list[str]:
    """Return hexadecimal colours along the colour map, from weak to strong, for a legend."""
    return [
        "#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in _colours(np.linspace(0, 1, count))
    ]


def _colours(weight: np.ndarray) -> np.ndarray:
    """Map weights in [0, 1] to RGB in a new last dimension, leaving out the darkest tenth of the colour map."""
    return np.asarray(colormaps[COLOUR_MAP](0.1 + 0.9 * weight))[..., :3]


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture so that its longer side is `side`."""
    factor = side / max(picture.size)
    width, height = (max(1, round(factor * length)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _enlarge(map_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge a map bicubically to (width, height), cutting the overshoot to [0, 1]."""
    small = Image.fromarray(np.asarray(map_HW, dtype=np.float32))
    return np.clip(np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.float64), 0, 1)
