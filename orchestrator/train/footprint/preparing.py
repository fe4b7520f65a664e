"""Features to measure with, and what a workload's transform costs on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from time import thread_time

import numpy as np

from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.train.footprint.synthetic import synthetic_samples
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
