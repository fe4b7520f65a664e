"""The keys of a step's samples in brief, worked out without reading the samples."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.stream.reader import Reader

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


def step_numbers(reader: Reader, step: int) -> range:
    """Return the numbers of a step's micro-batches in the run."""
    per_step = reader.lanes.micro_batches
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
    found = ((number, reader.identities(number)) for number in step_numbers(reader, step))
    return tuple(
        BatchKeys(number, len(identities), tuple(reader.keys_of(identities[:shown])))
        for number, identities in found
        if identities
    )
