"""The templates of the pages, with the filters that they use."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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
    }
    return environment
