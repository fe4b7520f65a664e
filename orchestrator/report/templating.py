"""The templates of the pages, with the filters that they use."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report import formats, palette


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


def frame(sections: Mapping[str, str], folder: str) -> dict[str, Any]:
    """Return what `base.html.j2` needs of every page.

    Args:
        sections: ids and titles, in the page's order.
        folder: of the templates that hold their bodies, by id.
    """
    script = (files("orchestrator.report") / "templates" / "copy.js").read_text(encoding="utf-8")
    return {
        "sections": sections,
        "section_folder": folder,
        "light": palette.css_variables(palette.LIGHT),
        "dark": palette.css_variables(palette.DARK),
        "script": Markup(script),  # noqa: S704 - the package's own file
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
