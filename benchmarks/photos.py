"""Photographs to measure with: deterministic JPEGs of about 500x375, cut out of the pictures that packages ship.

The pictures are the photographs in the wheels of scikit-image (astronaut, coffee, cat, rocket launch, motorcycle),
scikit-learn (a Chinese temple, a flower) and matplotlib (Grace Hopper). A sample is a random cut of one of them at its
own resolution (scaled by 0.75 to 2), sometimes mirrored, one in five upright, with quality 90 to 95: about 57 kB.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from workloads.contract import Example, KeyedRandom, Sample

LONG_SIDE = 500
SHORT_SIDES = (333, 375, 375, 375, 400)
UPRIGHT_SHARE = 0.2
SMALLEST_CUT = 0.85
"""Smallest share of the largest possible cut's width."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture in a package, and what it shows."""

    package: str
    path: str
    shows: str

    def file(self) -> Path | None:
        """Return where it is, or None when the package is not installed."""
        found = find_spec(self.package)
        return Path(found.origin).parent / self.path if found and found.origin else None


PHOTOGRAPHS = (
    Photograph("sklearn", "datasets/images/china.jpg", "a Chinese temple with golden roofs under a blue sky"),
    Photograph("sklearn", "datasets/images/flower.jpg", "an orange dahlia flower in front of dark leaves"),
    Photograph("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "a woman in a navy uniform with a hat"),
    Photograph("skimage", "data/astronaut.png", "a smiling astronaut in an orange suit before a flag"),
    Photograph("skimage", "data/chelsea.png", "a tabby cat that looks into the camera"),
    Photograph("skimage", "data/coffee.png", "a cup of espresso and a spoon on a wooden table"),
    Photograph("skimage", "data/motorcycle_left.png", "a motorcycle in a garage with tools on the wall"),
    Photograph("skimage", "data/rocket.jpg", "a rocket that lifts off from its launch pad"),
)


def origin() -> str:
    """Return where the pictures come from, for the figures' readers."""
    packages = sorted({photograph.package for photograph in _installed()})
    return f"{len(_installed())} photographs of {', '.join(packages)}"


def examples(count: int, seed: int = 0) -> Iterator[Example]:
    """Yield the samples of a data set, all in the split `train`."""
    for number in range(count):
        yield Example("train", sample(number, seed))


def sample(number: int, seed: int = 0) -> Sample:
    """Return one sample: a pure function of its number, the seed and the installed packages."""
    draw = KeyedRandom((seed, "photo", number)).numpy()
    photograph = _installed()[int(draw.integers(len(_installed())))]
    short = SHORT_SIDES[int(draw.integers(len(SHORT_SIDES)))]
    size = (short, LONG_SIDE) if draw.random() < UPRIGHT_SHARE else (LONG_SIDE, short)
    picture = _picture(photograph)
    share = draw.uniform(SMALLEST_CUT, 1) * min(picture.width / size[0], picture.height / size[1])
    width, height = size[0] * share, size[1] * share
    left, top = draw.uniform(0, picture.width - width), draw.uniform(0, picture.height - height)
    cut = picture.resize(size, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    if draw.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    captions = (photograph.shows, f"A photo of {photograph.shows}, picture {number}.")
    return Sample(f"{number:09d}", _jpeg(cut, int(draw.integers(90, 96))), captions)


@cache
def _installed() -> tuple[Photograph, ...]:
    found = tuple(photograph for photograph in PHOTOGRAPHS if photograph.file() is not None)
    if not found:
        raise SystemExit("no photographs: pip install 'fuseray[bench]'")
    return found


@cache
def _picture(photograph: Photograph) -> Image.Image:
    file = photograph.file()
    assert file is not None
    with Image.open(file) as image:
        return image.convert("RGB")


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
