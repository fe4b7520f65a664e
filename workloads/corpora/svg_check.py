"""What an SVG document may contain before it is given to the renderer.

The renderer loads files that a document names and repeats what a document refers to. So a document may refer to its
own parts only (`#name`), may declare no document type (the source of XML entities) and no style sheet, and the
elements that its references multiply into are counted first.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from xml.parsers import expat

MAX_SVG_CHARACTERS = 1 << 20
MAX_DEPTH = 100
"""Deepest nesting of elements, and longest chain of references."""

MAX_EXPANDED_ELEMENTS = 20_000
"""Most elements in a document once every reference is replaced by what it refers to."""

_URL = re.compile(r"url\(\s*['\"]?\s*([^'\")]*)", re.IGNORECASE)


class UnsafeDrawing(ValueError):
    """A drawing that is damaged, too large, or refers to something outside itself."""


def check(svg: str) -> None:
    """Refuse a document that could read files or take for ever to draw.

    Raises:
        UnsafeDrawing: when it is not well-formed XML, has over 2^20 characters, declares a document type or a style
            sheet, refers to anything outside itself, nests too deep, refers in circles, or unfolds into too many
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
    """How many elements each named part holds, and which parts it refers to."""

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
            raise UnsafeDrawing(f"its references unfold into {size} elements, the limit is {MAX_EXPANDED_ELEMENTS}")

    def _expanded(self, name: str, known: dict[str, int], path: tuple[str, ...]) -> int:
        if name in path or len(path) > MAX_DEPTH:
            raise UnsafeDrawing(f"its part #{name} refers to itself or is nested too deep")
        if name not in known:
            parts = self.references[name].items()
            below = sum(count * self._expanded(part, known, (*path, name)) for part, count in parts)
            known[name] = self.elements[name] + below
        return known[name]


def _targets(attributes: dict[str, str]) -> list[str]:
    values = [value for key, value in attributes.items() if key.rsplit(":", 1)[-1].lower() == "href"]
    values += [target for value in attributes.values() for target in _URL.findall(value)]
    for value in values:
        if not value.strip().startswith("#"):
            raise UnsafeDrawing(f"it refers to {value[:80]!r}, which is outside the drawing")
    return [value.strip()[1:].strip() for value in values]


def _refuse_doctype(*_: object) -> None:
    raise UnsafeDrawing("it declares a document type")
