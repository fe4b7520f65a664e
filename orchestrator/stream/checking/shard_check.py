"""Looks at one shard: its file, its sidecar and every sample in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.location import Location, locate
from orchestrator.storage.range_reader import FileRange, read_ranges
from orchestrator.storage.retry import StorageError
from orchestrator.stream.checking.verification import (
    Checks,
    Finding,
    check_content,
    check_digest,
    check_samples,
    check_size,
)
from orchestrator.stream.data_set import sidecar
from orchestrator.stream.data_set.index import DIGEST_BYTES, DataSetError, ShardFormat
from orchestrator.stream.data_set.parquet import Columns
from orchestrator.stream.data_set.samples import Rows, read_samples
from orchestrator.stream.indexing.shard_facts import ShardFacts, index_of

ROWS_AT_ONCE = 256
PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 4
DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""How Parquet's decoders report damage."""


@dataclass(frozen=True, slots=True)
class CheckJob:
    """A shard to look at.

    Args:
        folder: the data set.
        facts: what the index says of the shard.
        format: how it is written.
        columns: for Parquet shards, which column holds what.
        stamp: stands for the file's present state.
        checks: how closely to look.
    """

    folder: Location
    facts: ShardFacts
    format: ShardFormat
    columns: Mapping[str, str]
    stamp: str
    checks: Checks

    @property
    def name(self) -> str:
        """File name of the shard."""
        return self.facts.shard


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What was found in a shard: its faults, and how many samples and bytes were looked at."""

    name: str
    stamp: str
    samples: int
    bytes: int
    findings: tuple[Finding, ...]


def check_shard(job: CheckJob) -> ShardResult:
    """Read a shard once, from storage to a temporary folder where it is not local, and check all of it.

    Raises:
        StorageError: the store is failing; nothing is known about the shard.
    """
    shard = job.folder / job.name
    with TemporaryDirectory(prefix="fuseray-verify-") as scratch:
        copy = shard if shard.is_local else locate(f"{scratch}/{job.name}")
        digest, size = _read_through(shard, None if shard.is_local else Path(copy.path))
        findings = list(check_size(job.name, job.facts.bytes, size))
        findings = findings or list(check_digest(job.name, job.facts.digest, digest))
        rows, faults = _sidecar(job, shard, copy)
        findings += faults
        findings += _tar_faults(job, copy, rows) if job.format == "webdataset" else _parquet_faults(job, copy)
    return ShardResult(job.name, job.stamp, job.facts.samples, size, tuple(findings))


def _read_through(shard: Location, copy: Path | None) -> tuple[str, int]:
    """Return the digest and size of a shard, and keep a copy of it where one is wanted."""
    content, size = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    try:
        with copy.open("wb") if copy else nullcontext() as file:
            for part in _parts(shard):
                content.update(part)
                size += len(part)
                if file:
                    file.write(part)
    except OSError as error:
        raise StorageError(
            f"{shard.uri}: cannot be copied to {copy} ({error.strerror}); name a larger disk in TMPDIR."
        ) from error
    return content.hexdigest(), size


def _parts(shard: Location) -> Iterator[memoryview]:
    size = shard.size()
    if size is None:
        raise StorageError(f"{shard.uri}: cannot be read: it is gone since the folder was listed; begin again.")
    for start in range(0, size, PART_BYTES * PARTS_AT_ONCE):
        stop = min(start + PART_BYTES * PARTS_AT_ONCE, size)
        yield from read_ranges(
            [FileRange(shard, at, min(at + PART_BYTES, stop)) for at in range(start, stop, PART_BYTES)]
        )


def _sidecar(job: CheckJob, shard: Location, copy: Location) -> tuple[int, list[Finding]]:
    """Put a shard's sidecar beside the copy; return how many samples it has, and what is wrong with it."""
    place = sidecar.place(shard)
    if place.size() is None:
        return 0, [Finding(job.name, "", "sidecar is missing", f"{place.name}; index the shards again")]
    if copy != shard:
        sidecar.place(copy).write(place.read())
    try:
        rows = len(sidecar.read_sidecar(copy).keys)
    except DataSetError as error:
        return 0, [Finding(job.name, "", "sidecar is damaged", str(error))]
    return rows, list(check_samples(job.name, job.facts.samples, rows, "its sidecar"))


def _tar_faults(job: CheckJob, copy: Location, rows: int) -> Iterator[Finding]:
    for start in range(0, rows, ROWS_AT_ONCE):
        yield from _row_faults(job, copy, range(start, min(start + ROWS_AT_ONCE, rows)))


def _parquet_faults(job: CheckJob, copy: Location) -> Iterator[Finding]:
    """Read row group by row group; one that cannot be read is one finding."""
    try:
        file = pq.ParquetFile(copy.path)
    except DAMAGE as error:
        yield Finding(job.name, "", "shard is unreadable", f"all {job.facts.samples} samples: {error}")
        return
    with file:
        yield from check_samples(job.name, job.facts.samples, file.metadata.num_rows, "its footer")
        columns = Columns(**job.columns).names
        if absent := set(columns) - set(file.schema_arrow.names):
            yield Finding(job.name, "", "column is missing", ", ".join(sorted(absent)))
            return
        stop = 0
        for group in range(file.num_row_groups):
            start, stop = stop, stop + file.metadata.row_group(group).num_rows
            try:
                file.read_row_group(group, columns=columns).validate(full=True)
            except DAMAGE as error:
                yield Finding(job.name, "", "row group is unreadable", f"rows {start} to {stop - 1}: {error}")
            else:
                yield from _row_faults(job, copy, range(start, stop))


def _row_faults(job: CheckJob, copy: Location, rows: range) -> Iterator[Finding]:
    (contents,) = read_samples(job.folder, index_of([job.facts], job.format, job.columns), [Rows(copy, rows)])
    for content in contents:
        yield from check_content(job.name, content, job.checks)
