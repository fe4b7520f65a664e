"""Vector graphics in, PNG out, without letting a drawing reach outside itself."""

from __future__ import annotations

import io

from workloads.corpora.svg_check import UnsafeDrawing, check

BACKGROUND = "#ffffff"


def rasterise(svg: str, size: int) -> bytes:
    """Draw an SVG document on a white square.

    A drawing that is not square keeps its shape and is centred.

    Args:
        svg: the document.
        size: side of the result, in pixels.

    Returns:
        A PNG file.

    Raises:
        UnsafeDrawing: as `check`, and when the document cannot be drawn.
    """
    import resvg_py

    check(svg)
    try:
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=size, height=size, background=BACKGROUND, skip_system_fonts=True
        )
    except ValueError as error:
        raise UnsafeDrawing(f"it cannot be rendered: {error}") from error
    return _squared(bytes(png), size)


def _squared(png: bytes, size: int) -> bytes:
    from PIL import Image

    image = Image.open(io.BytesIO(png), formats=("PNG",))
    if image.size == (size, size):
        return png
    canvas = Image.new("RGB", (size, size), BACKGROUND)
    canvas.paste(image.convert("RGB"), ((size - image.width) // 2, (size - image.height) // 2))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()
