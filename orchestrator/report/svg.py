"""Matplotlib figures as SVG elements that can stand side by side in one HTML page."""

from __future__ import annotations

import io
import re
from html import escape

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from orchestrator.report.palette import as_variables

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
