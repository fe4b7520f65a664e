"""Traces a micro-batch back to storage: its samples, which were skipped and why, and whether the ledger agrees."""

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
    """Whether a run's ledger agrees about a micro-batch."""

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
        content: the sample, or why it cannot be read.
        skipped: why it was skipped; empty when it was not.
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
        place: its index in the step, from 0.
        samples: in order; empty after the end of the run.
        ledger: whether the ledger agrees.
    """

    number: int
    place: int
    samples: tuple[TracedSample, ...]
    ledger: LedgerStatus


@dataclass(frozen=True, slots=True)
class RunRecords:
    """The records of a run about its samples.

    Args:
        skipped: skipped samples by position.
        ledger: lines of the ledger by micro-batch, several for repeated ones; None when the run keeps no ledger.
    """

    skipped: Mapping[int, SkippedSample]
    ledger: Mapping[int, Sequence[LedgerLine]] | None

    @classmethod
    def of(cls, skipped: Iterable[SkippedSample], lines: Iterable[LedgerLine] | None) -> RunRecords:
        """Group a run's records by position and micro-batch."""
        ledger: dict[int, list[LedgerLine]] = {}
        for line in lines or ():
            ledger.setdefault(line.micro_batch, []).append(line)
        return cls({skip.position: skip for skip in skipped}, None if lines is None else ledger)


def trace(reader: Reader, number: int, records: RunRecords) -> TracedBatch:
    """Read a micro-batch and return what became of its samples.

    Args:
        reader: defines the order.
        number: the micro-batch's number in the run.
        records: of the run.

    Raises:
        StorageError: the store is failing.
        DataSetError: a data set is no longer the one that the run used.
    """
    (raw,) = reader.read([number])
    keys = [sample.content.key for sample in raw.samples]
    lines = None if records.ledger is None else records.ledger.get(number, [])
    skipped_keys = {key for line in lines or () for key in line.skipped}
    samples = tuple(_traced(reader, sample, records, skipped_keys) for sample in raw.samples)
    return TracedBatch(number, number % reader.layout.micro_batches, samples, _ledger_status(keys, lines))


def _traced(reader: Reader, sample: RawSample, records: RunRecords, skipped_keys: set[str]) -> TracedSample:
    source = reader.sources[sample.source]
    _, rows = source.index().find(np.array([sample.number]))
    skip = records.skipped.get(sample.position)
    reason = f"{skip.reason}: {skip.detail}" if skip and skip.detail else skip.reason if skip else ""
    return TracedSample(
        position=sample.position,
        data_set=source.folder.uri,
        epoch=sample.epoch,
        shard=sample.shard,
        row=int(rows[0]),
        content=sample.content,
        skipped=reason or (UNEXPLAINED if sample.content.key in skipped_keys else ""),
    )


def _ledger_status(keys: Sequence[str], lines: Sequence[LedgerLine] | None) -> LedgerStatus:
    if lines is None:
        return LedgerStatus.NOTHING
    if not lines:
        return LedgerStatus.MISSING
    return LedgerStatus.AGREES if all(line_matches(line, keys) for line in lines) else LedgerStatus.DIFFERS
