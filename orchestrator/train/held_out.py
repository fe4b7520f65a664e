"""Held-out samples: reads them, measures a model on them, and accounts for those that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError, Index
from orchestrator.stream.dataset.samples import evenly_spaced, read_numbered
from orchestrator.stream.dataset.sidecar import Unreadable
from orchestrator.stream.unusable import UnusableSample, count_unusable, describe_unusable
from workloads.contract import BadSample, Evaluation, EvaluationOptions, Sample, Workload, WorkloadError

SKIPPED = "skipped"
"""Name of the metric that counts the held-out samples that cannot be used, for whatever reason."""


@dataclass(frozen=True, slots=True)
class HeldOutSamples:
    """Held-out samples as they were read.

    Args:
        folder: where they are.
        samples: the readable ones.
        unreadable: the others.
    """

    folder: Location
    samples: tuple[Sample, ...]
    unreadable: tuple[UnusableSample, ...]

    @property
    def total(self) -> int:
        """How many samples were looked at."""
        return len(self.samples) + len(self.unreadable)


def read_held_out(folder: Location, index: Index, limit: int | None = None) -> HeldOutSamples:
    """Read evenly spaced held-out samples.

    Args:
        folder: the data set.
        index: its index.
        limit: most samples; None for all.

    Raises:
        StorageError: the store is failing.
        DataSetError: a sidecar is damaged.
    """
    samples: list[Sample] = []
    unreadable: list[UnusableSample] = []
    for located in read_numbered(folder, index, evenly_spaced(index.total, limit)):
        if isinstance(located.content, Unreadable):
            unreadable.append(_unusable(located.content.key, located.content.fault))
        else:
            samples.append(located.content)
    return HeldOutSamples(folder, tuple(samples), tuple(unreadable))


@dataclass(frozen=True, slots=True)
class Measurement:
    """An evaluation and what it was computed on.

    Args:
        evaluation: its metric `skipped` counts all unusable samples.
        samples: those that the workload was given; the galleries name rows of them.
        unusable: samples that cannot be read, or that the workload cannot use.
        total: how many samples were looked at.
        folder: where they are.
    """

    evaluation: Evaluation
    samples: Sequence[Sample]
    unusable: tuple[UnusableSample, ...]
    total: int
    folder: Location

    def describe_unusable(self) -> str:
        """Return one line about the unusable samples; empty when there are none."""
        counts = count_unusable(self.unusable)
        return describe_unusable(counts, self.total, self.folder.uri, self.folder.endpoint) if counts else ""


def measure(workload: Workload, held_out: HeldOutSamples, options: EvaluationOptions) -> Measurement:
    """Measure a model on held-out samples; those that cannot be used are left out, counted and listed.

    Raises:
        DataSetError: not a single sample can be read.
        WorkloadError: the workload cannot use them; the message begins with where they are.
    """
    uri = held_out.folder.uri
    if not held_out.samples:
        raise DataSetError(_nothing_left(held_out))
    try:
        evaluation = workload.evaluate(held_out.samples, options)
    except WorkloadError as error:
        raise WorkloadError(f"{uri}: {error}") from error
    rejected = tuple(_unusable(held_out.samples[row].key, fault) for row, fault in sorted(evaluation.unusable.items()))
    skipped = evaluation.metrics.get(SKIPPED, float(len(rejected))) + len(held_out.unreadable)
    evaluation = replace(evaluation, metrics={**evaluation.metrics, SKIPPED: skipped})
    return Measurement(evaluation, held_out.samples, (*held_out.unreadable, *rejected), held_out.total, held_out.folder)


def _unusable(key: str, fault: BadSample) -> UnusableSample:
    return UnusableSample(key, fault.reason, fault.detail)


def _nothing_left(held_out: HeldOutSamples) -> str:
    folder = held_out.folder
    if not held_out.unreadable:
        return f"{folder.uri}: holds no samples to evaluate on; name other shards in data.held_out."
    counts = count_unusable(held_out.unreadable)
    return f"{folder.uri}: {describe_unusable(counts, held_out.total, folder.uri, folder.endpoint)}."
