"""Safe decoding of untrusted images: only known formats, and sizes are checked before decoding."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from workloads.contract import BadSample

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The only formats that Pillow may open."""

MAX_PIXELS = 50_000_000
MAX_SIDE = 16_384

PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT_BYTES = 8 << 20
"""Largest text or colour profile in a PNG, in bytes once decompressed; some programs keep how they drew it there.

Pillow's own limit, beyond which it refuses the image, is 1 MB; that of all texts together stays its 64 MB.
"""


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """The largest image that is decoded.

    Args:
        pixels: limit of width times height.
        side: limit of width and of height, in pixels.
    """

    pixels: int = MAX_PIXELS
    side: int = MAX_SIDE


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The format of an image file, and its size in pixels."""

    format: str
    width: int
    height: int


def read_header(data: bytes, limit: SizeLimit | None = None) -> ImageHeader:
    """Return an image's format and size without decoding it.

    Args:
        data: the encoded file.
        limit: the largest image that is allowed.

    Raises:
        BadSample: with reason "image is empty", "image is too large", "text of the PNG is too large" or "image is
            corrupt".
    """
    with _opened(data, limit or SizeLimit()) as image:
        return ImageHeader(str(image.format), *image.size)


def decode(data: bytes, limit: SizeLimit | None = None) -> Image.Image:
    """Decode an image to RGB; transparent parts become white, and of an animation the first frame is used.

    Args:
        data: the encoded file.
        limit: the largest image that is allowed; checked in the header.

    Raises:
        BadSample: with reason "image is empty", "image is too large", "text of the PNG is too large", "image is
            truncated" or "image is corrupt".
    """
    with _opened(data, limit or SizeLimit()) as image:
        return _to_rgb(image)


@contextmanager
def _opened(data: bytes, limit: SizeLimit) -> Iterator[Image.Image]:
    if not data:
        raise BadSample("image is empty", "the file has no bytes")
    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=FORMATS) as image,
        ):
            _check_size(image, limit)
            yield image
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("image is too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadSample("image is corrupt", f"{len(data)} bytes that are none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise _damaged(error) from error


def _check_size(image: Image.Image, limit: SizeLimit) -> None:
    width, height = image.size
    if width * height > limit.pixels or max(width, height) > limit.side:
        raise BadSample(
            "image is too large",
            f"{width} x {height} pixels, the limits are {limit.pixels} pixels and {limit.side} on a side",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 256).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _damaged(error: Exception) -> BadSample:
    if "MAX_TEXT_" in str(error):
        return BadSample("text of the PNG is too large", f"the limit of each is {MAX_TEXT_BYTES} bytes ({error})")
    cut_short = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return BadSample("image is truncated" if cut_short else "image is corrupt", f"{type(error).__name__}: {error}")
