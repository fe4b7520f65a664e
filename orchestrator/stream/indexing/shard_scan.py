"""Reads one shard from its beginning to its end: its samples and its digest in one pass."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.storage.location import Location
from orchestrator.stream.data_set import tar
from orchestrator.stream.data_set.captions import captions_of, words_of
from orchestrator.stream.data_set.index import DataSetError, ShardFormat
from orchestrator.stream.data_set.parquet import Columns
from orchestrator.stream.data_set.sidecar import Entry, write_sidecar
from orchestrator.stream.indexing.read_through import BLOCK_BYTES, ReadThrough
from orchestrator.stream.indexing.shard_facts import ShardFacts
from workloads.contract import BadSample

ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class ShardJob:
    """A shard to read.

    Args:
        shard: the file.
        format: how it is written.
        columns: which column holds what, for Parquet shards.
    """

    shard: Location
    format: ShardFormat
    columns: Columns | None = None


@dataclass(frozen=True, slots=True)
class Damaged:
    """A shard that is there but is not readable to its end, and why."""

    shard: str
    reason: str


def scan_shard(job: ShardJob) -> ShardFacts | Damaged:
    """Read a shard and write its sidecar.

    Raises:
        StorageError: the store is failing; nothing is known about the shard.
        DataSetError: the shard lacks a column.
    """
    try:
        entries, facts = _parquet(job.shard, job.columns) if job.columns else _tar(job.shard)
    except (tarfile.TarError, pa.ArrowException, _CorruptError) as error:
        return Damaged(job.shard.name, str(error))
    write_sidecar(job.shard, entries)
    return facts


def _tar(shard: Location) -> tuple[list[Entry], ShardFacts]:
    stream = ReadThrough(shard)
    entries = list(tar.scan(stream))
    return entries, ShardFacts(shard.name, len(entries), stream.size, stream.digest())


def _parquet(shard: Location, columns: Columns) -> tuple[list[Entry], ShardFacts]:
    """Read a Parquet shard, whose footer comes last, by way of a copy where it is not local."""
    with TemporaryDirectory(prefix="fuseray-index-") as scratch:
        copy = None if shard.is_local else Path(scratch) / "shard"
        stream = ReadThrough(shard)
        _read_through(stream, copy)
        entries = list(_rows(copy or Path(shard.path), shard, columns))
        return entries, ShardFacts(shard.name, len(entries), stream.size, stream.digest())


def _rows(path: Path, shard: Location, columns: Columns) -> Iterator[Entry]:
    row = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_columns(file.schema_arrow, shard, columns)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns.names):
                yield from _entries(batch, row, shard, columns)
                row += batch.num_rows
    except OSError as error:  # how Parquet's decoders report damage
        raise _CorruptError(str(error)) from error


def _entries(batch: pa.RecordBatch, row: int, shard: Location, columns: Columns) -> Iterator[Entry]:
    image = batch.column(columns.image or columns.address)
    sizes = pc.binary_length(pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image)
    keys = batch.column(columns.key) if columns.key else pa.nulls(batch.num_rows)
    captions = batch.column(columns.captions)
    cells = zip(keys.to_pylist(), sizes.to_pylist(), captions.to_pylist(), strict=True)
    for place, (key, size, cell) in enumerate(cells, start=row):
        yield Entry(f"{shard.name}:{place}" if key is None else str(key), place, size or 0, _words(cell))


def _words(cell: object) -> tuple[int, ...]:
    try:
        return words_of(captions_of(cell))
    except BadSample:
        return ()


def _check_columns(schema: pa.Schema, shard: Location, columns: Columns) -> None:
    absent = [name for name in columns.names if name not in schema.names]
    if absent:
        raise DataSetError(
            f"{shard.uri}: lacks the column {absent[0]!r} that other shards have; it has {', '.join(schema.names)}."
        )


def _read_through(stream: ReadThrough, copy: Path | None) -> None:
    if copy is None:
        while stream.read(BLOCK_BYTES):
            pass
        return
    with copy.open("wb") as file:
        while block := stream.read(BLOCK_BYTES):
            file.write(block)


class _CorruptError(Exception):
    """The content of a shard is damaged."""
