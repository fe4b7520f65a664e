from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.report.images import GAP, MOST_LINES, SIDE, TEXT_SIZE, Tile, contact_sheet, font_for, wrapped

SCRIPTS = {
    "Latin": "a plain caption",
    "Chinese": "一只猫坐在沙发上" * 20,
    "Arabic": "قطة تجلس على الأريكة",
    "Hindi": "एक बिल्ली सोफे पर बैठी है",
    "Thai": "แมวนั่งอยู่บนโซฟา",
    "emoji": "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{WOMAN}",
    "control": "\x1b[31m red \x00 \u202e",
    "surrogate": "half \ud83d of a pair",
    "one long word": "x" * 5000,
    "nothing": "",
}


def sheet(tiles: list[Tile]) -> Image.Image:
    return Image.open(io.BytesIO(contact_sheet(tiles)))


@pytest.mark.parametrize("text", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_any_text_is_drawn_within_its_column(text: str) -> None:
    lines = wrapped(text, SIDE)
    assert len(lines) <= MOST_LINES
    assert all(font_for(text, TEXT_SIZE).getlength(line) <= SIDE + 1 for line in lines)
    picture = np.asarray(sheet([Tile(Image.new("RGB", (8, 8)), text, text)]))
    assert (picture[:, -GAP:] == 255).all()


def test_words_stay_whole_where_they_fit() -> None:
    text = "several words that do not all fit on one line of this width at once"
    lines = wrapped(text, SIDE)
    assert len(lines) > 1
    assert " ".join(lines) == text


def test_what_is_too_long_ends_in_an_ellipsis() -> None:
    lines = wrapped("word " * 100, SIDE)
    assert len(lines) == MOST_LINES
    assert lines[-1].endswith("…")


def test_pictures_stand_in_a_grid_with_their_shape() -> None:
    red, wide = Image.new("RGB", (50, 50), "red"), Image.new("RGB", (100, 10), "blue")
    picture = sheet([Tile(red, "a", "1"), Tile(wide, "b", "2"), Tile(None, "image is corrupt", "3")]).convert("RGB")
    centres = [picture.getpixel((GAP + column * (SIDE + GAP) + SIDE // 2, GAP + SIDE // 2)) for column in range(2)]
    assert centres == [(255, 0, 0), (0, 0, 255)]
    assert picture.getpixel((GAP + SIDE + GAP + SIDE // 2, GAP + 10)) != (0, 0, 255)


@pytest.mark.parametrize("count", [1, 2, 7, 24, 100])
def test_every_number_of_tiles_fits(count: int) -> None:
    picture = sheet([Tile(Image.new("RGB", (4, 4), "green"), f"caption {number}", "k") for number in range(count)])
    assert picture.width <= GAP + 8 * (SIDE + GAP)


def test_equal_tiles_give_equal_sheets() -> None:
    tiles = [Tile(Image.new("RGB", (4, 4), "green"), "caption", "key")]
    assert contact_sheet(tiles) == contact_sheet(tiles)
