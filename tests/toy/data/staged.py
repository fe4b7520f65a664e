"""A transform that decodes in a stage of its own and remembers what it decoded; as a program, a run's process with it.

python staged.py FIRST STOP    decodes pictures when a line arrives, and prints which of them, and a digest of all
python staged.py hold NUMBER   says that it decodes a picture, and never finishes
python staged.py on FIRST      decodes picture after picture and never ends
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError
from shards import picture

from orchestrator.stream.image_cache.cache import DecodedCache
from orchestrator.stream.image_cache.ring_file import Pixels
from workloads.contract import BadSample, Features, KeyedRandom, Sample

LIMIT_MB = 100
PATIENT = DecodedCache(LIMIT_MB, timeout_s=120.0)
"""A cache whose users wait for each other on the slowest machine."""


@dataclass
class StagedToy:
    """A crop of the picture at a keyed place."""

    decoded: list[bytes] = field(default_factory=list)
    decoding: str = "toy 1"

    def __call__(self, sample: Sample, draw: KeyedRandom) -> Features:
        return self.finish(sample, self.pixels(sample.image), draw)

    def pixels(self, image: bytes) -> np.ndarray:
        self.decoded.append(image)
        try:
            return np.array(Image.open(io.BytesIO(image)).convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise BadSample("image is corrupt", type(error).__name__) from error

    def finish(self, sample: Sample, pixels: np.ndarray, draw: KeyedRandom) -> Features:
        if not sample.captions[0]:
            raise BadSample("caption is empty")
        top, left = draw.numpy().integers(0, 8, 2)
        pixels[top, left] = 0  # the pixels are its own
        return {"image": pixels[top : top + 8, left : left + 8].copy()}


class Holding(StagedToy):
    """Begins to decode and never ends."""

    def pixels(self, image: bytes) -> np.ndarray:
        print("decoding", flush=True)
        threading.Event().wait()
        raise AssertionError


def in_order(images: Sequence[bytes], transform: StagedToy, cache: DecodedCache = PATIENT) -> list[Pixels | BadSample]:
    """Return images decoded by way of the cache, in their order."""
    found = dict(cache.decode(images, transform))
    return [found[place] for place in range(len(images))]


def digest_of(found: Sequence[Pixels | BadSample]) -> str:
    """Return a digest of images."""
    parts = [str(one) if isinstance(one, BadSample) else f"{one.shape}{one.tobytes().hex()}" for one in found]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start the program with the environment of the test."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _main(first: str, second: str) -> None:
    if first == "hold":
        in_order([picture(int(second))], Holding())
    if first == "on":
        print("on", flush=True)
        for number in itertools.count(int(second)):
            in_order([picture(number)], StagedToy())
    images = {picture(number): number for number in range(int(first), int(second))}
    transform = StagedToy()
    print("ready", flush=True)
    sys.stdin.readline()
    found = in_order(list(images), transform)
    print(json.dumps({"decoded": [images[one] for one in transform.decoded], "digest": digest_of(found)}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
