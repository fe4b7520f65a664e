"""Features to measure with, and what a workload's transform costs on this machine."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import thread_time

import numpy as np

from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from workloads.contract import Features, KeyedRandom, Sample, Transform, WorkloadError

TIMED = 32
"""Samples whose decoding is timed."""


class NotMeasuredError(FuserayError):
    """Nothing can be measured on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Transformed samples.

    Args:
        features: of each sample.
        cpu_s: CPU seconds that a sample took, its decoding and augmentation.
    """

    features: tuple[Features, ...]
    cpu_s: float

    def batch(self, size: int) -> Mapping[str, np.ndarray]:
        """Return the features of some samples stacked; they repeat when there are fewer."""
        chosen = [self.features[number % len(self.features)] for number in range(size)]
        return {name: np.stack([features[name] for features in chosen]) for name in chosen[0]}


def prepare(resolved: ResolvedRecipe) -> Prepared:
    """Transform made-up samples as the recipe says, on one thread, and time it.

    Raises:
        NotMeasuredError: a library is missing, or the transform cannot use them.
    """
    try:
        transform = resolved.entry.transform(resolved.workload)
        first, *others = synthetic_samples(TIMED + 1)
        features = [_transformed(transform, first)]
        began = _one_thread()
        features += [_transformed(transform, sample) for sample in others]
    except ImportError as error:
        raise NotMeasuredError(f"{error.name or error} is not installed on this machine") from error
    except WorkloadError as error:
        raise NotMeasuredError(str(error)) from error
    except Exception as error:  # a workload of someone else may want samples of another kind
        said = f"{type(error).__name__}: {error}"
        raise NotMeasuredError(f"the workload's transform cannot use a made-up sample ({said})") from error
    return Prepared(tuple(features), (thread_time() - began) / len(others))


def _transformed(transform: Transform, sample: Sample) -> Features:
    return transform(sample, KeyedRandom((0, "footprint", sample.key)))


def _one_thread() -> float:
    """Keep torch's operations in this thread, and return the CPU time that it has used."""
    import torch

    torch.set_num_threads(1)
    return thread_time()


def cpus_here() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Samples made up to measure with: pictures about as large as photographs, captions as long as can be.


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
