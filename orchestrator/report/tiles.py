"""From samples as stored to the tiles of a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from orchestrator.report.contact_sheet import SIDE, Tile
from orchestrator.stream.dataset.images import decode
from orchestrator.stream.dataset.sidecar import Content, Unreadable
from workloads.contract import BadSample


@dataclass(frozen=True, slots=True)
class Picture:
    """A sample's image, as small as a tile, or what is wrong with the sample."""

    image: Image.Image | None
    fault: str = ""


def picture_of(content: Content) -> Picture:
    """Decode a sample's image."""
    if isinstance(content, Unreadable):
        return Picture(None, str(content.fault))
    try:
        image = decode(content.image)
    except BadSample as fault:
        return Picture(None, str(fault))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Picture(image)


def tile_of(content: Content, picture: Picture, said: str = "") -> Tile:
    """Return a sample as a tile.

    Args:
        content: the sample.
        picture: its image.
        said: what is written under it in the place of its first caption.
    """
    captions = () if isinstance(content, Unreadable) else content.captions
    return Tile(picture.image, said or picture.fault or next(iter(captions), ""), content.key)
