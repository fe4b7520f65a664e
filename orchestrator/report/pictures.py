"""Encoded images in and out, made small enough to live inside a page."""

from __future__ import annotations

import base64
import io

from PIL import Image


def decode(data: bytes, what: str) -> Image.Image:
    """Decode an image to RGB; what is transparent becomes white.

    Args:
        data: the encoded file.
        what: names the image in the error.

    Raises:
        ValueError: when the bytes are not a readable image.
    """
    try:
        image = Image.open(io.BytesIO(data)).convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} is not a readable image ({error}); evaluate the run again") from error
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def encode(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def thumbnail(data: bytes, what: str, side: int = 192) -> bytes:
    """Return an image as PNG, at most `side` pixels wide and high.

    Raises:
        ValueError: when the bytes are not a readable image.
    """
    image = decode(data, what)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encode(image)


def data_uri(png: bytes) -> str:
    """Return a PNG as a `data:` URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
