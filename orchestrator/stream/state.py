"""The state of the stream in a checkpoint, by which a resume proves that it continues where the run stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.stream.micro_batch import fingerprint
from orchestrator.stream.reader import Reader

SHOWN_KEYS = 3


@dataclass(frozen=True, slots=True)
class StreamState:
    """The stream at the end of a step.

    Args:
        settings: everything that determines the samples of a step, by recipe key or data set.
        fingerprints: of the keys of each micro-batch of the last step; empty before the first step.
    """

    settings: Mapping[str, Any]
    fingerprints: tuple[int, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> StreamState:
        """Build it from what `plain` returned."""
        return cls(values["settings"], tuple(values["fingerprints"]))


def stream_settings(reader: Reader, seed: int) -> dict[str, Any]:
    """Return everything that determines the samples of every step."""
    first = reader.sources[0].order
    settings: dict[str, Any] = {
        "seed": seed,
        "batch.micro_batches": reader.layout.micro_batches,
        "batch.micro_batch_size": reader.layout.micro_batch_size,
        "stream.chunk": first.chunk,
        "stream.window": reader.layout.window,
        "data.mix": list(reader.mixture.quotas),
    }
    return settings | {f"the index of data set {i}": source.index_digest for i, source in enumerate(reader.sources)}


def stream_changes(before: StreamState, settings: Mapping[str, Any], reader: Reader, next_step: int) -> list[str]:
    """Return the differences that would make the stream continue elsewhere than it stopped; empty when there are none.

    The keys of the last step's samples are read again as the order defines them now, and compared with those that were
    trained on.

    Args:
        before: the state in the checkpoint.
        settings: of the run that resumes.
        reader: of the run that resumes.
        next_step: the first step after the checkpoint.

    Raises:
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run was planned with.
    """
    names = sorted(before.settings.keys() | settings.keys())
    changed = [
        f"{name}: {before.settings.get(name)} -> {settings.get(name)}"
        for name in names
        if before.settings.get(name) != settings.get(name)
    ]
    if changed or not before.fingerprints:
        return changed
    per_step = len(before.fingerprints)
    numbers = range((next_step - 1) * per_step, next_step * per_step)
    moved = [
        number
        for number, expected in zip(numbers, before.fingerprints, strict=True)
        if fingerprint(reader.keys(number)) != expected
    ]
    return [f"the samples of micro-batch {number}: their keys are not those that were trained on" for number in moved]


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """A summary of a micro-batch: its number in the run, its number of samples, and the keys of the first ones."""

    number: int
    samples: int
    first_keys: tuple[str, ...]

    def text(self) -> str:
        """Return it as text."""
        more = self.samples - len(self.first_keys)
        return f"micro-batch {self.number}: {', '.join(self.first_keys)}{f' and {more} more' if more else ''}"


def step_micro_batches(reader: Reader, step: int) -> range:
    """Return the numbers of a step's micro-batches in the run."""
    per_step = reader.layout.micro_batches
    return range(step * per_step, (step + 1) * per_step)


def step_keys(reader: Reader, step: int, shown: int = SHOWN_KEYS) -> tuple[BatchKeys, ...]:
    """Return summaries of a step's micro-batches without the empty ones; sidecars are read, but no samples.

    Args:
        reader: defines the order and reads the keys.
        step: the step.
        shown: number of keys of each micro-batch.

    Raises:
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run used.
    """
    numbered = ((number, reader.sample_ids(number)) for number in step_micro_batches(reader, step))
    return tuple(
        BatchKeys(number, len(sample_ids), tuple(reader.keys_of(sample_ids[:shown])))
        for number, sample_ids in numbered
        if sample_ids
    )
