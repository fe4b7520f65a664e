"""Images: safe decoding, random crops, flips and resizing, on uint8 arrays.

torch is imported at its first use, so that a process that only sends a transform to others does not load it.

Shape suffixes: H height, W width, C the three colour channels.
"""

from __future__ import annotations

import io
import math
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import PIL
from PIL import Image, PngImagePlugin, UnidentifiedImageError, features

from workloads.contract import BadSample, KeyedRandom

cv2.setNumThreads(0)  # the pipeline runs one process per core already

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that Pillow may decode."""

DECODER_VERSION = 1
"""Version of `decode`, incremented whenever equal bytes may decode to other pixels than before."""

CODECS = ("jpg", "libjpeg_turbo", "webp", "zlib", "libtiff")
"""Libraries that Pillow decodes with."""

MAX_PIXELS = 50_000_000
"""Largest image, in pixels; checked in the file's header, before decoding."""

MAX_SIDE = 16_384
"""Largest width or height, in pixels."""

PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT_BYTES = 8 << 20
"""Largest text or colour profile in a PNG, in bytes once decompressed; some programs keep how they drew it there.

Pillow's own limit, beyond which it refuses the image, is 1 MB; that of all texts together stays its 64 MB.
"""

CROP_RATIO = (3 / 4, 4 / 3)
"""Range of a random crop's width / height (the RandomResizedCrop of Inception training)."""

CROP_ATTEMPTS = 10


class Box(NamedTuple):
    """A rectangle of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


def decode(data: bytes) -> np.ndarray:
    """Decode an image file to RGB [H, W, 3] uint8; transparent parts become white.

    The EXIF orientation is ignored, as in the official ALBEF code. Of an animation the first frame is used.

    Raises:
        BadSample: with reason "image is empty", "image is too large", "text of the PNG is too large", "image is
            truncated" or "image is corrupt".
    """
    if not data:
        raise BadSample("image is empty", "the file has no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image)
            return np.array(_to_rgb(image))
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("image is too large", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadSample("image is corrupt", f"{len(data)} bytes that are none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise _damaged(error) from error


@cache
def decoding() -> str:
    """Return the name of the decoding: the versions of `decode`, of Pillow and of Pillow's codecs."""
    codecs = " ".join(f"{name}={features.version(name)}" for name in CODECS)
    return f"rgb={DECODER_VERSION} pillow={PIL.__version__} {codecs}"


def random_crop_box(width: int, height: int, scale: tuple[float, float], draw: KeyedRandom) -> Box:
    """Draw the crop of RandomResizedCrop: a share of the area in `scale`, an aspect ratio in `CROP_RATIO`.

    A crop that does not fit is drawn again, up to ten times; after that the largest centred crop with an allowed
    ratio is used.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        scale: smallest and largest share of the area.
        draw: key of this sample's crop.
    """
    generator = draw.numpy()
    for _ in range(CROP_ATTEMPTS):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(generator.integers(width - crop_width + 1))
            top = int(generator.integers(height - crop_height + 1))
            return Box(left, top, crop_width, crop_height)
    return _central_box(width, height)


def resize(image_HWC: np.ndarray, size: tuple[int, int], box: Box | None = None) -> np.ndarray:
    """Resize an image, or a box of it, to [*size, 3]: bicubic, antialiased, uint8 throughout.

    Args:
        image_HWC: uint8, channels last.
        size: height and width of the result, in pixels.
        box: the part to resize; by default the whole image. The aspect ratio is not preserved.
    """
    left, top, width, height = box or Box(0, 0, image_HWC.shape[1], image_HWC.shape[0])
    import torch
    from torch.nn import functional as F

    part_HWC = torch.from_numpy(image_HWC)[top : top + height, left : left + width]
    part_1CHW = part_HWC.permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    resized_1CHW = F.interpolate(part_1CHW, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized_1CHW[0].permute(1, 2, 0).numpy())


def random_flip(image_HWC: np.ndarray, probability: float, draw: KeyedRandom) -> np.ndarray:
    """Mirror an image left to right with a probability."""
    return cv2.flip(image_HWC, 1) if draw.numpy().random() < probability else image_HWC


def channels_first(image_HWC: np.ndarray) -> np.ndarray:
    """Return the image as a contiguous [3, H, W] array."""
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadSample(
            "image is too large",
            f"{width} x {height} pixels, the limits are {MAX_PIXELS} pixels and {MAX_SIDE} on a side",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 256).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data or _is_opaque(image):
        return image.convert("RGB")
    colours = image.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _is_opaque(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255)


def _damaged(error: Exception) -> BadSample:
    if "MAX_TEXT_" in str(error):
        return BadSample("text of the PNG is too large", f"the limit of each is {MAX_TEXT_BYTES} bytes ({error})")
    text = str(error).lower()
    cut_short = isinstance(error, EOFError) or "truncated" in text
    return BadSample("image is truncated" if cut_short else "image is corrupt", f"{type(error).__name__}: {error}")


def _central_box(width: int, height: int) -> Box:
    crop_width = min(width, max(1, round(height * CROP_RATIO[1])))
    crop_height = min(height, max(1, round(width / CROP_RATIO[0])))
    return Box((width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height)
