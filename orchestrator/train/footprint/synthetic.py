"""Samples made up to measure with: pictures about as large as photographs, captions as long as can be."""

from __future__ import annotations

import io

import numpy as np

from workloads.contract import KeyedRandom, Sample

WIDTH, HEIGHT, COARSE = 500, 375, 25
"""Pixels of a picture, and of the squares that its colours change over."""

GRAIN = 6.0
QUALITY = 92
WORDS = ("a", "small", "dog", "runs", "over", "green", "grass", "with", "an", "orange", "ball", "in", "its", "mouth")
CAPTION_WORDS = 200


def synthetic_samples(count: int) -> list[Sample]:
    """Return samples with a JPEG of 500 x 375 pixels and about 60 kB, and a caption of 200 words each."""
    caption = " ".join(WORDS[number % len(WORDS)] for number in range(CAPTION_WORDS))
    return [Sample(f"synthetic-{number}", _picture(number), (caption,)) for number in range(count)]


def _picture(number: int) -> bytes:
    """Return soft colours with the grain of a film, which compress about as photographs do."""
    from PIL import Image

    random = KeyedRandom((0, "synthetic", number)).numpy()
    coarse = random.integers(0, 256, (HEIGHT // COARSE, WIDTH // COARSE, 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = np.asarray(soft, dtype=np.float32) + random.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
