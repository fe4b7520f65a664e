"""Drawings from Iconify JSON icon sets (the `icons.json` of the npm packages @iconify-json/*).

An icon set maps icon names to SVG fragments. Beside it may lie `chars.json` (code points in hexadecimal -> icon name)
and `info.json` (licence, author). Without `chars.json` icons are matched by name with the Unicode short names, both
written in lower case with hyphens; flags of places are "flag-NAME". Hidden icons, aliases (further names of a drawing)
and rotated or mirrored icons are not used.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from workloads.contract import WorkloadError
from workloads.corpora.drawings import DrawingSet
from workloads.corpora.emoji_names import captions
from workloads.corpora.emoji_sequences import from_hexcode

DEFAULT_SIDE = 16
"""Width and height of an icon where neither it nor its set gives one (Iconify's own default)."""

_BOX_KEYS = ("left", "top", "width", "height")
_UNUSED = ("hidden", "rotate", "hFlip", "vFlip")


def read_icon_set(path: Path) -> DrawingSet:
    """Read an Iconify icon set and find the code points of its icons.

    Raises:
        WorkloadError: when the file is missing, is no icon set, or none of its icons is an emoji.
    """
    icon_set = _read_object(path)
    icons = _icons_of(icon_set, path)
    names = _names_by_sequence(path, icons)
    svgs = {
        sequence: _svg(icons[name], icon_set, f"icon {name!r} of {path}")
        for sequence, name in sorted(names.items())
        if not any(icons[name].get(key) for key in _UNUSED)
    }
    if not svgs:
        raise WorkloadError(f"{path}: none of its {len(icons)} icons has an emoji's code points or name")
    license_name, author = _licence(path)
    return DrawingSet(icon_set["prefix"], license_name, author, svgs, unnamed=len(icons) - len(svgs))


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkloadError(f"{path} does not exist; correct the path of the Iconify set") from None
    except OSError as error:
        raise WorkloadError(f"{path} cannot be read ({error.strerror}); name an icons.json file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WorkloadError(f"{path} is not JSON ({error}); expected the icons.json of an Iconify set") from None
    if not isinstance(value, dict):
        raise _malformed(path, f"a JSON {type(value).__name__} at its top")
    return value


def _icons_of(icon_set: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    prefix, icons = icon_set.get("prefix"), icon_set.get("icons")
    if not isinstance(prefix, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", prefix):
        raise _malformed(path, f"prefix {prefix!r}")
    if not isinstance(icons, dict) or not icons:
        raise _malformed(path, "no icons")
    for name, icon in icons.items():
        if not isinstance(icon, dict) or not isinstance(icon.get("body"), str):
            raise _malformed(path, f"icon {name!r} without a body")
    return icons


def _names_by_sequence(path: Path, icons: dict[str, dict[str, Any]]) -> dict[str, str]:
    chars_path = path.with_name("chars.json")
    if not chars_path.exists():
        slugs = names_by_slug()
        return {slugs[name]: name for name in icons if name in slugs}
    try:
        return {from_hexcode(code): name for code, name in _read_object(chars_path).items() if name in icons}
    except (ValueError, TypeError, OverflowError):
        raise WorkloadError(
            f"{chars_path} is not a map of hexadecimal code points to icon names; "
            "restore it from the icon set, or remove it to match icons by name"
        ) from None


def names_by_slug() -> dict[str, str]:
    """Return icon name -> sequence for every named emoji, as Iconify sets spell the names."""
    return {_slug(caption.replace("flag of ", "flag ")): sequence for sequence, caption in captions().items()}


def _slug(caption: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub("['\u2019]", "", caption.lower())).strip("-")


def _svg(icon: dict[str, Any], icon_set: dict[str, Any], place: str) -> str:
    defaults = {"left": 0, "top": 0, "width": DEFAULT_SIDE, "height": DEFAULT_SIDE}
    box = {key: icon.get(key, icon_set.get(key, defaults[key])) for key in _BOX_KEYS}
    if not all(type(value) in (int, float) for value in box.values()) or box["width"] <= 0 or box["height"] <= 0:
        raise WorkloadError(f"{place} has the box {box}; expected numbers, with width and height above 0")
    view_box = " ".join(str(box[key]) for key in _BOX_KEYS)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view_box}">{icon["body"]}</svg>'
    )


def _licence(path: Path) -> tuple[str, str]:
    info_path = path.with_name("info.json")
    info = _read_object(info_path) if info_path.exists() else {}
    licence, author = info.get("license", {}), info.get("author", {})
    if not isinstance(licence, dict) or not isinstance(author, dict):
        raise WorkloadError(f"{info_path}: license and author must be objects; restore or remove the file")
    return str(licence.get("spdx", "unknown")), str(author.get("name", "unknown"))


def _malformed(path: Path, found: str) -> WorkloadError:
    return WorkloadError(
        f"{path} has {found}; expected an Iconify set: an object with a prefix and icons, each with a body "
        "(the icons.json of a package @iconify-json/...)"
    )
