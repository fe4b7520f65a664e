"""What a checkpoint remembers of the stream, so that a resume can prove that it goes on where the run stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.stream.micro_batch import fingerprint
from orchestrator.stream.reader import Reader


@dataclass(frozen=True, slots=True)
class StreamState:
    """The stream at the end of a step.

    Args:
        settings: what determines which samples a step has, by the name of the recipe's key or of the data set.
        fingerprints: of the keys of each micro-batch of the last step; none before the first.
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
    """Return what determines the samples of every step."""
    first = reader.sources[0].order
    settings: dict[str, Any] = {
        "seed": seed,
        "batch.micro_batches": reader.layout.micro_batches,
        "batch.micro_batch_size": reader.layout.micro_batch_size,
        "stream.chunk": first.chunk,
        "stream.window": reader.layout.window,
        "data.mix": list(reader.mixture.quotas),
    }
    return settings | {f"the index of data set {i}": one.index_digest for i, one in enumerate(reader.sources)}


def stream_changes(before: StreamState, settings: Mapping[str, Any], reader: Reader, next_step: int) -> list[str]:
    """Return what would make the stream go on elsewhere than where it stopped; nothing when all is as it was.

    The keys of the last step's samples are read again from where the order puts them now and compared with those that
    were trained on.

    Args:
        before: what the checkpoint remembers.
        settings: of the run that goes on.
        reader: of the run that goes on.
        next_step: the first step that is not part of the checkpoint.

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


# The keys of a step's samples in brief, worked out without reading the samples.


SHOWN = 3


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """A micro-batch in brief: its number in the run, how many samples it has, and the keys of the first ones."""

    number: int
    samples: int
    first_keys: tuple[str, ...]

    def text(self) -> str:
        """Return it in words."""
        more = self.samples - len(self.first_keys)
        return f"micro-batch {self.number}: {', '.join(self.first_keys)}{f' and {more} more' if more else ''}"


def step_micro_batches(reader: Reader, step: int) -> range:
    """Return the numbers of a step's micro-batches in the run."""
    per_step = reader.layout.micro_batches
    return range(step * per_step, (step + 1) * per_step)


def step_keys(reader: Reader, step: int, shown: int = SHOWN) -> tuple[BatchKeys, ...]:
    """Return the micro-batches of a step in brief; those that the end of the run left empty are left out.

    Args:
        reader: knows the order and the keys.
        step: the step.
        shown: keys of each micro-batch.

    Raises:
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run used.
    """
    found = ((number, reader.sample_ids(number)) for number in step_micro_batches(reader, step))
    return tuple(
        BatchKeys(number, len(sample_ids), tuple(reader.keys_of(sample_ids[:shown])))
        for number, sample_ids in found
        if sample_ids
    )
