"""The templates of the pages with their filters, the colours of pages and charts, and Matplotlib figures as inline SVG.

Charts are drawn in the light colours, which become CSS variables with a dark counterpart. The data colours are those of
Okabe and Ito, "Color Universal Design" (2008), distinguishable under every common form of colour blindness; the dark
counterparts keep their hues and are lighter.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from orchestrator.report import formats


@cache
def environment() -> Environment:
    """Return the environment in which every page is rendered: everything is escaped but SVG of our own."""
    environment = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": formats.percent,
        "number": formats.count,
        "figure": formats.figure,
        "times": formats.times,
        "duration": formats.duration,
        "size": formats.size,
        "svg": Markup,
        "moment": formats.moment,
        "compact": "{:.4g}".format,
    }
    return environment


def frame(sections: Mapping[str, str], folder: str, templates: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what `base.html.j2` needs of every page.

    Args:
        sections: ids and titles, in the page's order.
        folder: of the templates that hold their bodies.
        templates: names of the templates of sections that share one; the others have one named by their id.
    """
    script = (files("orchestrator.report") / "templates" / "copy.js").read_text(encoding="utf-8")
    return {
        "sections": sections,
        "section_templates": {id_: f"{folder}/{(templates or {}).get(id_, id_)}.html.j2" for id_ in sections},
        "light": css_variables(LIGHT),
        "dark": css_variables(DARK),
        "script": Markup(script),  # noqa: S704 - the package's own file
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }


LIGHT = {
    "paper": "#ffffff",
    "panel": "#f6f6f3",
    "ink": "#1c1c1a",
    "muted": "#62625d",
    "rule": "#deded8",
    "blue": "#0072b2",
    "vermillion": "#d55e00",
    "green": "#009e73",
    "orange": "#e69f00",
    "purple": "#cc79a7",
    "sky": "#56b4e9",
    "yellow": "#f0e442",
    "slate": "#4b5563",
    "grey": "#a8a8a2",
    "good": "#00664a",
    "bad": "#a83c00",
    "grade-1": "#d2d6c6",
    "grade-2": "#aecbb3",
    "grade-3": "#80bfa8",
    "grade-4": "#4ca5a2",
    "grade-5": "#2b859a",
    "grade-6": "#1e638c",
    "grade-7": "#1d3e76",
}
"""Colour name to hexadecimal value on a light page; the values are distinct."""

DARK = {
    "paper": "#161715",
    "panel": "#20211f",
    "ink": "#e9e8e3",
    "muted": "#a5a49d",
    "rule": "#3a3b37",
    "blue": "#5cb3e6",
    "vermillion": "#ff8a3d",
    "green": "#35c79c",
    "orange": "#f2b632",
    "purple": "#e29cc4",
    "sky": "#9bd6f7",
    "yellow": "#f5ec72",
    "slate": "#8b97a8",
    "grey": "#6d6d68",
    "good": "#4fd1a5",
    "bad": "#ff9a5c",
    "grade-1": "#38433f",
    "grade-2": "#365b5b",
    "grade-3": "#367a79",
    "grade-4": "#409a92",
    "grade-5": "#63bba3",
    "grade-6": "#9bd9b0",
    "grade-7": "#e2f5bf",
}
"""The same names on a dark page."""

PARTS = ("sky", "vermillion", "blue", "green", "orange", "purple", "yellow", "slate")
"""Colours for the parts of a whole, neighbours well apart."""


GRADES = tuple(f"grade-{number}" for number in range(1, 8))
"""Colours for values from bad to good: the better, the further from the colour of the page, light or dark."""


def part_colours(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a colour name for each part of a whole, grey for the part called `other`."""
    return tuple("grey" if name == "other" else PARTS[i % len(PARTS)] for i, name in enumerate(names))


def as_variables(svg: str) -> str:
    """Replace the light colours in an SVG by the page's CSS variables."""
    for name, value in LIGHT.items():
        svg = svg.replace(value, f"var(--{name})")
    return svg


def css_variables(colours: dict[str, str]) -> str:
    """Return CSS declarations of one set of colours."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def inline(figure: Figure, prefix: str, label: str) -> str:
    """Return a figure as an `<svg>` element for an HTML page.

    Text stays text in the page's own font, colours become CSS variables, the background is transparent.
    The same figure gives the same string.

    Args:
        figure: drawn with the colours of the palette, at 72 dots per inch.
        prefix: put before every id, so unique on the page.
        label: what the picture shows, read out by screen readers.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", dpi=72, transparent=True, metadata=_NO_METADATA)
    body = _body(buffer.getvalue())
    body = as_variables(_page_font(_own_ids(body, prefix)))
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    head = f'<svg class="chart" role="img" viewBox="0 0 {width} {height}" aria-label="{escape(label)}">'
    return f"{head}{body}</svg>"


def _body(document: str) -> str:
    """Cut the prologue, the root element and the style sheet (it would reach the whole page) off an SVG file."""
    body = document[document.index("<g ") : document.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    return re.sub(r"\s*\n\s*", " ", body).strip()


def _own_ids(body: str, prefix: str) -> str:
    """Prefix the ids that something refers to and drop the others."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}-', body)
    return re.sub(r"url\(#", f"url(#{prefix}-", body)


def _page_font(body: str) -> str:
    """Leave the choice of font to the page; keep sizes and alignment."""
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    return re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
