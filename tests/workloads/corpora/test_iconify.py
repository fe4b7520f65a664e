from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workloads.contract import WorkloadError
from workloads.corpora.drawings import read_icon_set
from workloads.corpora.emoji_names import from_hexcode

CIRCLE = '<circle cx="18" cy="18" r="18" fill="#ffcc4d"/>'
ICON_SET: dict[str, Any] = {
    "prefix": "testmoji",
    "lastModified": 1766168211,
    "width": 36,
    "height": 36,
    "icons": {
        "grinning-face": {"body": CIRCLE},
        "thumbs-up-dark-skin-tone": {"body": CIRCLE, "left": 1, "top": -2, "height": 40},
        "flag-france": {"body": CIRCLE},
        "hidden-cat": {"body": CIRCLE, "hidden": True},
        "own-invention": {"body": CIRCLE},
        "cat-face": {"body": CIRCLE, "hFlip": True},
    },
    "aliases": {"happy-face": {"parent": "grinning-face"}},
}
CHARS = {
    "1f600": "grinning-face",
    "1f44d-1f3ff": "thumbs-up-dark-skin-tone",
    "1f1eb-1f1f7": "flag-france",
    "1f431": "gone",
}
INFO = {"name": "Test", "author": {"name": "A. Painter"}, "license": {"title": "CC BY 4.0", "spdx": "CC-BY-4.0"}}


def write(folder: Path, icon_set: object, chars: object = None, info: object = None) -> Path:
    for name, value in (("icons.json", icon_set), ("chars.json", chars), ("info.json", info)):
        if value is not None:
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return folder / "icons.json"


def test_a_set_with_chars_is_read_by_code_point(tmp_path: Path) -> None:
    drawings = read_icon_set(write(tmp_path, ICON_SET, CHARS, INFO))
    assert drawings.style == "testmoji"
    assert (drawings.license, drawings.attribution) == ("CC-BY-4.0", "A. Painter")
    assert set(drawings.svgs) == {from_hexcode(code) for code in ("1f600", "1f44d-1f3ff", "1f1eb-1f1f7")}
    assert drawings.unnamed == 3


def test_the_box_falls_back_from_icon_to_set_to_sixteen(tmp_path: Path) -> None:
    drawings = read_icon_set(write(tmp_path, ICON_SET, CHARS))
    assert 'viewBox="0 0 36 36"' in drawings.svgs["😀"]
    assert 'viewBox="1 -2 36 40"' in drawings.svgs[from_hexcode("1f44d-1f3ff")]
    bare = {key: value for key, value in ICON_SET.items() if key not in ("width", "height")}
    assert 'viewBox="0 0 16 16"' in read_icon_set(write(tmp_path, bare, CHARS)).svgs["😀"]


def test_a_set_without_chars_is_read_by_name(tmp_path: Path) -> None:
    drawings = read_icon_set(write(tmp_path, ICON_SET))
    assert set(drawings.svgs) == {from_hexcode(code) for code in ("1f600", "1f44d-1f3ff", "1f1eb-1f1f7")}
    assert drawings.license == "unknown"


@pytest.mark.parametrize(
    ("icon_set", "message"),
    [
        ("not JSON", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], "a JSON list at its top"),
        ({"icons": {"a": {"body": "x"}}}, "prefix None"),
        ({"prefix": "../evil", "icons": {"a": {"body": "x"}}}, "prefix"),
        ({"prefix": "a"}, "no icons"),
        ({"prefix": "a", "icons": {}}, "no icons"),
        ({"prefix": "a", "icons": {"cat": {}}}, "icon 'cat' without a body"),
        ({"prefix": "a", "icons": {"cat": "x"}}, "icon 'cat' without a body"),
        ({"prefix": "a", "icons": {"home": {"body": "x"}}}, "none of its 1 icons"),
        ({"prefix": "a", "width": 0, "icons": {"grinning-face": {"body": "x"}}}, "width and height above 0"),
        ({"prefix": "a", "width": "1em", "icons": {"grinning-face": {"body": "x"}}}, "expected numbers"),
    ],
)
def test_a_malformed_set_is_refused_by_name(tmp_path: Path, icon_set: object, message: str) -> None:
    path = write(tmp_path, icon_set)
    with pytest.raises(WorkloadError, match=message) as caught:
        read_icon_set(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "icons.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkloadError, match="is not JSON"):
        read_icon_set(tmp_path / "icons.json")


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="does not exist"):
        read_icon_set(tmp_path / "icons.json")
    with pytest.raises(WorkloadError, match="cannot be read"):
        read_icon_set(tmp_path)


@pytest.mark.parametrize("chars", [{"zz": "grinning-face"}, {"1f600": ["x"]}, {"ffffffffff": "grinning-face"}])
def test_malformed_chars_are_refused(tmp_path: Path, chars: object) -> None:
    with pytest.raises(WorkloadError, match=r"chars\.json is not a map"):
        read_icon_set(write(tmp_path, ICON_SET, chars))


@pytest.mark.parametrize("info", [{"license": "MIT"}, {"author": 3}])
def test_malformed_info_is_refused(tmp_path: Path, info: object) -> None:
    with pytest.raises(WorkloadError, match=r"info\.json"):
        read_icon_set(write(tmp_path, ICON_SET, CHARS, info))
