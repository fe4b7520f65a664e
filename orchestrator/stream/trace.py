"""What a micro-batch was made of: its samples as stored, which of them were skipped, and what the ledger says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from orchestrator.stream.dataset.sidecar import Content
from orchestrator.stream.ledger import LedgerLine, line_matches
from orchestrator.stream.micro_batch import RawSample, SkippedSample
from orchestrator.stream.reader import Reader

UNEXPLAINED = "the ledger says so; the list of skipped samples does not have it"


class LedgerStatus(StrEnum):
    """What a run's ledger says about a micro-batch."""

    NOTHING = "the run keeps no ledger"
    MISSING = "the ledger has no line for it"
    AGREES = "the ledger agrees"
    DIFFERS = "the ledger has other samples"


@dataclass(frozen=True, slots=True)
class TracedSample:
    """One sample of a micro-batch.

    Args:
        position: in the run's order.
        data_set: URI of its data set.
        epoch: of that data set, from 0.
        shard: URI of its shard.
        row: in that shard, from 0.
        content: what lies there.
        skipped: why it was left out; empty when it was not.
    """

    position: int
    data_set: str
    epoch: int
    shard: str
    row: int
    content: Content
    skipped: str = ""

    @property
    def key(self) -> str:
        """Its key."""
        return self.content.key


@dataclass(frozen=True, slots=True)
class TracedBatch:
    """One micro-batch.

    Args:
        number: in the run, from 0.
        place: in its step, from 0.
        samples: in order; none when the run ends before.
        ledger: what the ledger says about it.
    """

    number: int
    place: int
    samples: tuple[TracedSample, ...]
    ledger: LedgerStatus


@dataclass(frozen=True, slots=True)
class RunRecords:
    """What a run wrote down about its samples.

    Args:
        skipped: samples that were left out, by position.
        ledger: lines of the ledger by micro-batch, twice what was done twice; None when the run keeps no ledger.
    """

    skipped: Mapping[int, SkippedSample]
    ledger: Mapping[int, Sequence[LedgerLine]] | None

    @classmethod
    def of(cls, skipped: Iterable[SkippedSample], lines: Iterable[LedgerLine] | None) -> RunRecords:
        """Sort what a run wrote down."""
        ledger: dict[int, list[LedgerLine]] = {}
        for line in lines or ():
            ledger.setdefault(line.micro_batch, []).append(line)
        return cls({skip.position: skip for skip in skipped}, None if lines is None else ledger)


def trace(reader: Reader, number: int, notes: RunRecords) -> TracedBatch:
    """Read a micro-batch and say what became of its samples.

    Args:
        reader: knows the order.
        number: the micro-batch's number in the run.
        notes: what the run wrote down.

    Raises:
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run used.
    """
    (raw,) = reader.read([number])
    keys = [sample.content.key for sample in raw.samples]
    lines = None if notes.ledger is None else notes.ledger.get(number, [])
    left_out = {key for line in lines or () for key in line.skipped}
    samples = tuple(_traced(reader, sample, notes, left_out) for sample in raw.samples)
    return TracedBatch(number, number % reader.layout.micro_batches, samples, _compared(keys, lines))


def _traced(reader: Reader, sample: RawSample, notes: RunRecords, left_out: set[str]) -> TracedSample:
    source = reader.sources[sample.source]
    _, rows = source.index().find(np.array([sample.number]))
    skip = notes.skipped.get(sample.position)
    reason = f"{skip.reason}: {skip.detail}" if skip and skip.detail else skip.reason if skip else ""
    return TracedSample(
        position=sample.position,
        data_set=source.folder.uri,
        epoch=sample.epoch,
        shard=sample.shard,
        row=int(rows[0]),
        content=sample.content,
        skipped=reason or (UNEXPLAINED if sample.content.key in left_out else ""),
    )


def _compared(keys: Sequence[str], lines: Sequence[LedgerLine] | None) -> LedgerStatus:
    if lines is None:
        return LedgerStatus.NOTHING
    if not lines:
        return LedgerStatus.MISSING
    return LedgerStatus.AGREES if all(line_matches(line, keys) for line in lines) else LedgerStatus.DIFFERS
