from __future__ import annotations

import io

import numpy as np
import pytest
from damage import huge_png, photo
from PIL import Image, PngImagePlugin

from orchestrator.stream.dataset import images
from orchestrator.stream.dataset.images import ImageHeader, SizeLimit, decode, read_header
from workloads.contract import BadSample
from workloads.transforms import images as of_training


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_known_formats_are_read(kind: str) -> None:
    data = encoded(Image.new("RGB", (7, 5), (200, 10, 10)), kind)
    assert read_header(data) == ImageHeader(kind, 7, 5)
    assert decode(data).size == (7, 5)


def test_other_formats_are_refused() -> None:
    with pytest.raises(BadSample, match=r"image is corrupt: .* none of PNG"):
        decode(encoded(Image.new("RGB", (7, 5)), "PPM"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "image is empty"),
        (b"not an image", "image is corrupt"),
        (huge_png(30_000, 30_000), "image is too large"),
        (huge_png(20_000, 10), "image is too large"),
        (huge_png(10, 10), "image is truncated"),
        (photo()[:800], "image is truncated"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        decode(data)
    assert caught.value.reason == reason


def test_text_of_a_png_is_read_up_to_the_limit_that_training_has() -> None:
    assert images.MAX_TEXT_BYTES == of_training.MAX_TEXT_BYTES
    for size, reason in ((2 << 20, ""), (images.MAX_TEXT_BYTES + 1, "text of the PNG is too large")):
        text, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
        text.add_text("workflow", "x" * size, zip=True)
        Image.new("RGB", (7, 5)).save(buffer, "PNG", pnginfo=text)
        if not reason:
            assert read_header(buffer.getvalue()) == ImageHeader("PNG", 7, 5)
            continue
        for read in (read_header, decode):
            with pytest.raises(BadSample) as caught:
                read(buffer.getvalue())
            assert caught.value.reason == reason


def test_the_limit_is_checked_without_decoding() -> None:
    with pytest.raises(BadSample, match="8000 x 8000 pixels"):
        read_header(huge_png(8000, 8000))
    assert read_header(huge_png(8000, 8000), SizeLimit(pixels=64_000_000)).width == 8000


def test_transparent_parts_become_white_and_deep_grey_is_scaled() -> None:
    clear = encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG")
    assert decode(clear).getpixel((0, 0)) == (255, 255, 255)
    deep = encoded(Image.fromarray(np.full((2, 2), 0x8000, np.uint16)), "PNG")
    assert decode(deep).getpixel((0, 0)) == (128, 128, 128)
