from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from workloads.contract import BadSample, KeyedRandom
from workloads.transforms.images import (
    MAX_SIDE,
    MAX_TEXT_BYTES,
    Box,
    channels_first,
    decode,
    random_crop_box,
    random_flip,
    resize,
)

KEY = KeyedRandom((7, "images"))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    row, column = np.mgrid[0:height, 0:width]
    return np.stack([row * 255 // height, column * 255 // width, (row + column) % 256], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bad(data: bytes) -> BadSample:
    with pytest.raises(BadSample) as caught:
        decode(data)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_decode_exactly(kind: str) -> None:
    pixels = noise(13, 17)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), kind)), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_decode_closely(kind: str) -> None:
    pixels = smooth(64, 48)
    decoded = decode(encoded(Image.fromarray(pixels), kind, quality=95))
    assert np.abs(decoded.astype(int) - pixels).mean() < 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode)
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    assert (decode(encoded(image, kind)) > 250).all()


def test_sixteen_bit_grey_keeps_its_range() -> None:
    grey = np.array([[0, 32768, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey), "PNG"))[0, :, 0], [0, 128, 255])


def test_transparency_becomes_white() -> None:
    clear = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    clear.putpixel((0, 0), (200, 0, 0, 255))
    decoded = decode(encoded(clear, "PNG"))
    assert decoded[0, 0].tolist() == [200, 0, 0]
    assert decoded[1, 1].tolist() == [255, 255, 255]


def test_a_transparent_palette_colour_becomes_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    assert decode(encoded(palette, "GIF", transparency=0))[0].tolist() == [[255, 255, 255], [10, 20, 30]]


def test_no_bytes_is_an_empty_image() -> None:
    assert bad(b"").reason == "image is empty"


@pytest.mark.parametrize(
    "data", [b"no image at all", b"\x89PNG\r\n\x1a\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_other_bytes_are_a_corrupt_image(data: bytes) -> None:
    assert bad(data).reason == "image is corrupt"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_image_cut_short_is_never_accepted(kind: str) -> None:
    data = encoded(Image.fromarray(noise(80, 80)), kind)
    for share in (0.3, 0.6, 0.95):
        assert bad(data[: int(len(data) * share)]).reason in {"image is truncated", "image is corrupt"}


def test_a_jpeg_cut_in_its_pixels_is_truncated() -> None:
    data = encoded(Image.fromarray(noise(80, 80)), "JPEG")
    assert bad(data[: len(data) // 2]).reason == "image is truncated"


def test_a_damaged_png_is_corrupt() -> None:
    data = bytearray(encoded(Image.fromarray(noise(40, 40)), "PNG"))
    data[60:70] = b"\xff" * 10
    assert bad(bytes(data)).reason == "image is corrupt"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_never_raises_anything_but_bad_sample() -> None:
    generator = np.random.default_rng(3)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = encoded(Image.fromarray(noise(24, 24)), kind)
        for _ in range(40):
            damaged = bytearray(data)
            for position in generator.integers(len(damaged), size=6):
                damaged[position] = generator.integers(256)
            with contextlib.suppress(BadSample):
                assert decode(bytes(damaged)).shape[2] == 3


def test_a_20000_pixel_wide_image_is_too_large() -> None:
    error = bad(encoded(Image.new("RGB", (20_000, 10)), "PNG"))
    assert error.reason == "image is too large"
    assert "20000 x 10" in error.detail


def test_the_largest_side_is_accepted() -> None:
    assert decode(encoded(Image.new("L", (MAX_SIDE, 1)), "PNG")).shape == (1, MAX_SIDE, 3)


def test_a_png_with_megabytes_of_text_decodes_and_one_with_more_says_so() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (2 << 20), zip=True)
    assert decode(encoded(Image.new("RGB", (3, 2), (9, 8, 7)), "PNG", pnginfo=text)).tolist() == [[[9, 8, 7]] * 3] * 2
    text.add_text("more", "x" * (MAX_TEXT_BYTES + 1), zip=True)
    error = bad(encoded(Image.new("RGB", (3, 2)), "PNG", pnginfo=text))
    assert (error.reason, str(MAX_TEXT_BYTES) in error.detail) == ("text of the PNG is too large", True)


def test_many_texts_of_a_png_are_too_large_together() -> None:
    text = PngImagePlugin.PngInfo()
    for number in range(9):
        text.add_text(f"part {number}", "x" * (MAX_TEXT_BYTES - 10), zip=True)
    assert bad(encoded(Image.new("RGB", (3, 2)), "PNG", pnginfo=text)).reason == "text of the PNG is too large"


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(9_000, 9_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    assert bad(png_header(width, height)).reason == "image is too large"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_below_pillows_own_limit_is_refused_too() -> None:
    assert bad(png_header(10_000, 10_000)).reason == "image is too large"


def test_crops_stay_inside_and_keep_their_share() -> None:
    for number in range(200):
        box = random_crop_box(97, 61, (0.2, 1.0), KEY.child(number))
        assert box.left >= 0
        assert box.top >= 0
        assert box.left + box.width <= 97
        assert box.top + box.height <= 61
        assert 0.18 < box.width * box.height / (97 * 61) <= 1.0
        assert 0.7 < box.width / box.height < 1.4


def test_crops_depend_on_the_key_alone() -> None:
    boxes = [random_crop_box(97, 61, (0.2, 1.0), KEY.child(number)) for number in range(20)]
    assert boxes == [random_crop_box(97, 61, (0.2, 1.0), KEY.child(number)) for number in range(20)]
    assert len(set(boxes)) > 15


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1)])
def test_extreme_shapes_fall_back_to_the_centre(width: int, height: int) -> None:
    box = random_crop_box(width, height, (1.0, 1.0), KEY)
    assert box.left == (width - box.width) // 2
    assert box.top == (height - box.height) // 2
    assert 1 <= box.width <= width
    assert 1 <= box.height <= height


def test_resizing_agrees_with_pillow() -> None:
    pixels, box = smooth(75, 100), Box(10, 5, 60, 50)
    expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC, box=(10, 5, 70, 55))
    resized = resize(pixels, (32, 32), box)
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    assert np.abs(resized.astype(int) - np.asarray(expected)).max() <= 1


def test_resizing_the_whole_image_ignores_its_shape() -> None:
    assert resize(smooth(30, 90), (16, 24)).shape == (16, 24, 3)
    assert resize(smooth(1, 1), (8, 8)).shape == (8, 8, 3)


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, (16, 16)).astype(int) - 128)[:, 2:-2].max() < 8


def test_flip_happens_as_often_as_asked() -> None:
    pixels = smooth(4, 6)
    np.testing.assert_array_equal(random_flip(pixels, 1.0, KEY), pixels[:, ::-1])
    np.testing.assert_array_equal(random_flip(pixels, 0.0, KEY), pixels)
    flipped = sum(not np.array_equal(random_flip(pixels, 0.5, KEY.child(number)), pixels) for number in range(400))
    assert 150 < flipped < 250


def test_channels_first_is_contiguous() -> None:
    image_CHW = channels_first(smooth(4, 6))
    assert image_CHW.shape == (3, 4, 6)
    assert image_CHW.flags.c_contiguous
