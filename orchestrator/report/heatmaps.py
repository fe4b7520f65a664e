"""Attention maps laid over images. Shapes: H, W = map; Y, X = picture; C = colour channel."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from PIL import Image

from orchestrator.report.pictures import decode, encode

COLOUR_MAP = "inferno"
"""Perceptually uniform, rising in lightness, so it reads in grey too."""

_COVER = 0.68


def overlay(image: bytes, map_HW: np.ndarray, side: int = 160) -> bytes:
    """Lay a map over an image and return a PNG.

    The image turns grey and shines through evenly, so equal weights have equal hues everywhere.

    Args:
        image: the encoded image file.
        map_HW: weights in [0, 1], [height, width]; enlarged bicubically to the picture.
        side: longer side of the result, pixels.

    Raises:
        ValueError: when the image cannot be read or the map is not a finite 2-D array.
    """
    if map_HW.ndim != 2 or not np.isfinite(map_HW).all():
        raise ValueError(f"a heat map is a finite array [height, width], got {map_HW.dtype} {map_HW.shape}")
    picture = _fit(decode(image, "the image under a heat map"), side)
    weight_YX = _enlarge(map_HW, picture.size)
    colour_YXC = _colours(weight_YX)
    grey_YXC = np.asarray(picture.convert("L"), dtype=np.float64)[..., None] / 255
    mixed_YXC = (1 - _COVER) * grey_YXC + _COVER * colour_YXC
    return encode(Image.fromarray(np.round(255 * mixed_YXC).astype(np.uint8)))


def scale_stops(count: int = 9) -> list[str]:
    """Return hexadecimal colours along the colour map, from weak to strong, for a legend."""
    return [
        "#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in _colours(np.linspace(0, 1, count))
    ]


def _colours(weight: np.ndarray) -> np.ndarray:
    """Map weights in [0, 1] to RGB in a new last dimension, leaving out the darkest tenth of the colour map."""
    return np.asarray(colormaps[COLOUR_MAP](0.1 + 0.9 * weight))[..., :3]


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture so that its longer side is `side`."""
    factor = side / max(picture.size)
    width, height = (max(1, round(factor * length)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _enlarge(map_HW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Enlarge a map bicubically to (width, height), cutting the overshoot to [0, 1]."""
    small = Image.fromarray(np.asarray(map_HW, dtype=np.float32))
    return np.clip(np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=np.float64), 0, 1)
