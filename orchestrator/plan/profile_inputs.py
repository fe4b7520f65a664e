"""Synthetic samples, as large as photographs with long captions, and what transforming them costs on this machine."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import thread_time
from typing import cast

import numpy as np

from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from workloads.contract import Features, KeyedRandom, OfflineProfile, Sample, Section, Transform, WorkloadError

TIMED = 32
"""Samples whose transform is timed."""


class NotMeasuredError(FuserayError):
    """The model cannot be measured on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Transformed samples.

    Args:
        features: of each sample.
        cpu_s: CPU seconds per sample for decoding and augmentation.
    """

    features: tuple[Features, ...]
    cpu_s: float

    def batch(self, size: int) -> Mapping[str, np.ndarray]:
        """Return the features of a micro-batch, stacked along the first axis; samples repeat when there are fewer."""
        chosen = [self.features[number % len(self.features)] for number in range(size)]
        return {name: np.stack([features[name] for features in chosen]) for name in chosen[0]}


def prepare(resolved: ResolvedRecipe) -> Prepared:
    """Transform synthetic samples with the recipe's transform on one thread, and time it.

    Raises:
        NotMeasuredError: a library is missing, or the transform cannot use synthetic samples.
    """
    try:
        transform = resolved.entry.transform(offline_config(resolved))
        first, *others = synthetic_samples(TIMED + 1)
        features = [_transformed(transform, first)]
        started = _use_one_thread()
        features += [_transformed(transform, sample) for sample in others]
    except ImportError as error:
        raise NotMeasuredError(f"{error.name or error} is not installed on this machine") from error
    except WorkloadError as error:
        raise NotMeasuredError(str(error)) from error
    except Exception as error:  # a third party's workload may need samples of another kind
        reason = f"{type(error).__name__}: {error}"
        raise NotMeasuredError(f"the workload's transform cannot use a synthetic sample ({reason})") from error
    return Prepared(tuple(features), (thread_time() - started) / len(others))


def offline_config(resolved: ResolvedRecipe) -> Section:
    """Return the workload's config, or one of equal cost whose transform fetches nothing, where there is one."""
    entry = resolved.entry
    if isinstance(entry, OfflineProfile):
        return cast(Section, entry.profiled(resolved.workload))
    return resolved.workload


def _transformed(transform: Transform, sample: Sample) -> Features:
    return transform(sample, KeyedRandom((0, "footprint", sample.key)))


def _use_one_thread() -> float:
    """Run torch's operations in this thread, and return its CPU time in seconds."""
    import torch

    torch.set_num_threads(1)
    return thread_time()


def cpus_here() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


WIDTH, HEIGHT, COARSE = 500, 375, 25
"""Pixels of an image, and of the squares over which its colours change."""

GRAIN = 6.0
QUALITY = 92
WORDS = ("a", "small", "dog", "runs", "over", "green", "grass", "with", "an", "orange", "ball", "in", "its", "mouth")
CAPTION_WORDS = 200


def synthetic_samples(count: int) -> list[Sample]:
    """Return samples with a JPEG of 500 x 375 pixels and about 60 kB, and a caption of 200 words each."""
    caption = " ".join(WORDS[number % len(WORDS)] for number in range(CAPTION_WORDS))
    return [Sample(f"synthetic-{number}", _jpeg(number), (caption,)) for number in range(count)]


def _jpeg(number: int) -> bytes:
    """Return a JPEG of smooth colours with film grain, which compresses about as well as a photograph."""
    from PIL import Image

    random = KeyedRandom((0, "synthetic", number)).numpy()
    coarse = random.integers(0, 256, (HEIGHT // COARSE, WIDTH // COARSE, 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = np.asarray(soft, dtype=np.float32) + random.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
