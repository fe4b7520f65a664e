"""Reads one shard from beginning to end: its digest, its sidecar, and what is wrong with its samples."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset import webdataset
from orchestrator.stream.dataset.columns import Columns
from orchestrator.stream.dataset.faults import FaultCount, FaultTally
from orchestrator.stream.dataset.index import DataSetError, HashingReader, ShardFacts, ShardFormat
from orchestrator.stream.dataset.judgement import image_fault
from orchestrator.stream.dataset.parquet import Addressed, parse_row
from orchestrator.stream.dataset.sidecar import (
    Content,
    SidecarEntry,
    Unreadable,
    check_sidecar,
    count_words,
    write_sidecar,
)
from workloads.contract import BadSample

ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ShardJob:
    """A shard to read.

    Args:
        shard: the file.
        format: of the shard.
        columns: for Parquet shards, the columns by role.
    """

    shard: Location
    format: ShardFormat
    columns: Columns | None = None


@dataclass(frozen=True, slots=True)
class DamagedShard:
    """A shard that exists but cannot be read to its end, and the reason."""

    shard: str
    reason: str


@dataclass(frozen=True, slots=True)
class ScannedShard:
    """A shard that was read to its end.

    Args:
        facts: its entry in the index.
        faults: its unusable samples by reason.
        addressed: samples whose images are elsewhere, and were not looked at.
        apart: keys of unusable samples that stand at several places of the shard: their members are not side by side.
        first_apart: the first of them; empty for none.
    """

    facts: ShardFacts
    faults: tuple[FaultCount, ...] = ()
    addressed: int = 0
    apart: int = 0
    first_apart: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ScannedShard:
        """Build it from its plain values."""
        faults = tuple(FaultCount(**fault) for fault in values["faults"])
        return cls(**{**values, "facts": ShardFacts(**values["facts"]), "faults": faults})


def scan_shard(job: ShardJob) -> ScannedShard | DamagedShard:
    """Read a shard, judge its samples, and write its sidecar. Images are not decoded, and addresses not followed.

    Raises:
        StorageError: the store is failing; nothing is known about the shard.
        DataSetError: the shard lacks a column or has one of another type, or its sidecar's name is taken.
    """
    check_sidecar(job.shard)
    judge = _Judge(job.shard.name)
    try:
        facts = _parquet(job.shard, job.columns, judge) if job.columns else _tar(job.shard, judge)
    except (tarfile.TarError, _CorruptError) as error:
        return DamagedShard(job.shard.name, str(error))
    write_sidecar(job.shard, judge.entries)
    return judge.scanned(facts)


class _Judge:
    """Collects the entries of a shard's samples, and counts those that cannot be used."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.entries: list[SidecarEntry] = []
        self._faults = FaultTally()
        self._seen: set[str] = set()
        self._addressed = 0
        self._apart: dict[str, None] = {}

    def add(self, content: Content, offset: int, size: int) -> None:
        """Add a sample as it was read."""
        fault = image_fault(content)
        self._add(SidecarEntry.of(content, offset, size), fault)

    def add_addressed(self, sample: Addressed, row: int) -> None:
        """Add a sample whose image is elsewhere and is not looked at."""
        self._addressed += 1
        entry = SidecarEntry(sample.key, row, len(sample.address.encode()), count_words(sample.captions))
        self._add(entry, None)

    def _add(self, entry: SidecarEntry, fault: BadSample | None) -> None:
        self.entries.append(entry)
        if fault is not None:
            self._faults.add(self.shard, entry.key, fault)
            if entry.key in self._seen:
                self._apart[entry.key] = None
        self._seen.add(entry.key)

    def scanned(self, facts: ShardFacts) -> ScannedShard:
        first_apart = next(iter(self._apart), "")
        return ScannedShard(facts, self._faults.counts(), self._addressed, len(self._apart), first_apart)


def _tar(shard: Location, judge: _Judge) -> ShardFacts:
    stream = HashingReader(shard)
    for sample in webdataset.scan(stream):
        judge.add(sample.content, sample.offset, sample.size)
    return ShardFacts(shard.name, len(judge.entries), stream.size, stream.digest())


def _parquet(shard: Location, columns: Columns, judge: _Judge) -> ShardFacts:
    """Read a Parquet shard, whose footer comes last, by way of a copy unless it is local."""
    with TemporaryDirectory(prefix="fuseray-index-") as scratch:
        copy = None if shard.is_local else Path(scratch) / "shard"
        reader = HashingReader(shard)
        reader.drain(copy)
        row = 0
        for batch in _batches(copy or Path(shard.path), shard, columns):
            for number in range(batch.num_rows):
                _judge_row(judge, batch, number, row + number, columns)
            row += batch.num_rows
        return ShardFacts(shard.name, row, reader.size, reader.digest())


def _judge_row(judge: _Judge, batch: pa.RecordBatch, number: int, row: int, columns: Columns) -> None:
    sample = parse_row(batch, number, columns, f"{judge.shard}:{row}")
    if isinstance(sample, Addressed):
        judge.add_addressed(sample, row)
    else:
        judge.add(sample, row, 0 if isinstance(sample, Unreadable) else len(sample.image))


def _batches(path: Path, shard: Location, columns: Columns) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            columns.check(file.schema_arrow, shard.uri)
            yield from file.iter_batches(ROWS_AT_ONCE, columns=columns.names)
    except pa.ArrowNotImplementedError as error:
        raise DataSetError(
            f"{shard.uri}: cannot be read by this version of pyarrow ({pa.__version__}), though it may be whole: "
            f"{error}; write it again with plainer types."
        ) from error
    except (OSError, pa.ArrowException) as error:  # Parquet's decoders raise both for damage
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(f"{shard.uri}: cannot be read: {error.strerror}.") from error
        raise _CorruptError(str(error)) from error


class _CorruptError(Exception):
    """The content of a shard is damaged."""
