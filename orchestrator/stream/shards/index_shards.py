"""Indexes existing shards: each is read once for its sidecar and digest, many concurrently, and work is resumed."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.config.commands import command_line
from orchestrator.storage.jsonl_log import JsonlLog
from orchestrator.storage.location import Location
from orchestrator.storage.retry import retrying
from orchestrator.stream.dataset import sidecar, webdataset
from orchestrator.stream.dataset.index import (
    INDEX_NAME,
    DataSetError,
    HashingReader,
    Index,
    ShardFacts,
    ShardFormat,
    build_index,
    write_index,
)
from orchestrator.stream.dataset.parquet import Columns
from orchestrator.stream.dataset.sidecar import SidecarEntry, count_words, parse_captions, write_sidecar
from orchestrator.stream.shards.executors import Mapper, ThreadMapper
from workloads.contract import BadSample

ROWS_AT_ONCE = 256
LOG_NAME = ".indexing"

THREADS = 8


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


def scan_shard(job: ShardJob) -> ShardFacts | DamagedShard:
    """Read a shard and write its sidecar.

    Raises:
        StorageError: the store is failing; nothing is known about the shard.
        DataSetError: the shard lacks a column.
    """
    try:
        entries, facts = _parquet(job.shard, job.columns) if job.columns else _tar(job.shard)
    except (tarfile.TarError, pa.ArrowException, _CorruptError) as error:
        return DamagedShard(job.shard.name, str(error))
    write_sidecar(job.shard, entries)
    return facts


def _tar(shard: Location) -> tuple[list[SidecarEntry], ShardFacts]:
    stream = HashingReader(shard)
    entries = list(webdataset.scan(stream))
    return entries, ShardFacts(shard.name, len(entries), stream.size, stream.digest())


def _parquet(shard: Location, columns: Columns) -> tuple[list[SidecarEntry], ShardFacts]:
    """Read a Parquet shard, whose footer comes last, by way of a copy unless it is local."""
    with TemporaryDirectory(prefix="fuseray-index-") as scratch:
        copy = None if shard.is_local else Path(scratch) / "shard"
        reader = HashingReader(shard)
        reader.drain(copy)
        entries = list(_rows(copy or Path(shard.path), shard, columns))
        return entries, ShardFacts(shard.name, len(entries), reader.size, reader.digest())


def _rows(path: Path, shard: Location, columns: Columns) -> Iterator[SidecarEntry]:
    row = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_columns(file.schema_arrow, shard, columns)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns.names):
                yield from _entries(batch, row, shard, columns)
                row += batch.num_rows
    except OSError as error:  # Parquet's decoders raise it for damage
        raise _CorruptError(str(error)) from error


def _entries(batch: pa.RecordBatch, row: int, shard: Location, columns: Columns) -> Iterator[SidecarEntry]:
    image = batch.column(columns.image or columns.address)
    sizes = pc.binary_length(pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image)
    keys = batch.column(columns.key) if columns.key else pa.nulls(batch.num_rows)
    captions = batch.column(columns.captions)
    cells = zip(keys.to_pylist(), sizes.to_pylist(), captions.to_pylist(), strict=True)
    for number, (key, size, cell) in enumerate(cells, start=row):
        yield SidecarEntry(f"{shard.name}:{number}" if key is None else str(key), number, size or 0, _words(cell))


def _words(cell: object) -> tuple[int, ...]:
    try:
        return count_words(parse_captions(cell))
    except BadSample:
        return ()


def _check_columns(schema: pa.Schema, shard: Location, columns: Columns) -> None:
    absent = [name for name in columns.names if name not in schema.names]
    if absent:
        raise DataSetError(
            f"{shard.uri}: lacks the column {absent[0]!r} that other shards have; it has {', '.join(schema.names)}."
        )


class _CorruptError(Exception):
    """The content of a shard is damaged."""


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """Progress of work on shards: shards done, shards in all, their samples, and unusable shards or items."""

    shards: int
    of: int
    samples: int
    bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """Options of indexing.

    Args:
        columns: for Parquet shards, names of columns by role (see `parquet.Columns`); the others are detected.
        skip_damaged: leave damaged shards out of the index.
        mapper: runs the reading of shards concurrently.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    skip_damaged: bool = False
    mapper: Mapper = field(default_factory=lambda: ThreadMapper(THREADS))


@dataclass(frozen=True, slots=True)
class IndexResult:
    """A new index, and the damaged shards that it leaves out."""

    index: Index
    damaged: tuple[DamagedShard, ...]


def make_index(folder: Location, options: IndexOptions, progress: Callable[[ShardProgress], None]) -> IndexResult:
    """Index every shard in a folder and write the index.

    Interrupted work is resumed: shards that were read are not read again unless their size or modification time
    changed.

    Args:
        folder: holds `*.tar` or `*.parquet` shards, one kind only.
        options: of the indexing.
        progress: called after every shard.

    Raises:
        DataSetError: there are no shards, two kinds of them, a shard lacks a column, or shards are damaged.
        StorageError: the store is failing.
    """
    files = _files(folder)
    shard_format, names = _shards(folder, files)
    columns = _columns(folder, names, options.columns) if shard_format == "parquet" else None
    with JsonlLog(folder / LOG_NAME) as log:
        known = _finished(log, files, columns)
        jobs = (ShardJob(folder / name, shard_format, columns) for name in names if name not in known)
        damaged = []
        for result in _counted(options.mapper(scan_shard, jobs), known, len(names), progress):
            if isinstance(result, DamagedShard):
                damaged.append(result)
                continue
            known[result.shard] = result
            log.add(_record(result, files[result.shard], columns))
        _check(folder, damaged, len(names), options.skip_damaged)
        index = build_index(
            (known[name] for name in names if name in known), shard_format, columns.as_mapping() if columns else {}
        )
        write_index(folder, index)
        log.remove()
    return IndexResult(index, tuple(sorted(damaged, key=lambda shard: shard.shard)))


def _counted(
    results: Iterator[ShardFacts | DamagedShard],
    known: Mapping[str, ShardFacts],
    shards: int,
    progress: Callable[[ShardProgress], None],
) -> Iterator[ShardFacts | DamagedShard]:
    done, samples, bad = len(known), sum(facts.samples for facts in known.values()), 0
    progress(ShardProgress(done, shards, samples, bad))
    for result in results:
        yield result
        done += 1
        if isinstance(result, DamagedShard):
            bad += 1
        else:
            samples += result.samples
        progress(ShardProgress(done, shards, samples, bad))


def _finished(log: JsonlLog, files: Mapping[str, fs.FileInfo], columns: Columns | None) -> dict[str, ShardFacts]:
    """Return the shards that interrupted work has read and that have not changed since."""
    finished = {}
    for record in log.read():
        facts = ShardFacts(**record["facts"])
        exists = facts.shard in files and f"{facts.shard}{sidecar.SUFFIX}" in files
        if exists and record == _record(facts, files[facts.shard], columns):
            finished[facts.shard] = facts
    return finished


def _record(facts: ShardFacts, file: fs.FileInfo, columns: Columns | None) -> dict[str, Any]:
    state = {"bytes": file.size, "modified_ns": file.mtime_ns}
    return {"facts": facts.as_json(), "file": state, "columns": columns.as_mapping() if columns else {}}


def _files(folder: Location) -> dict[str, fs.FileInfo]:
    """Return the files directly in a folder."""
    selector = fs.FileSelector(folder.path, allow_not_found=True)
    infos = retrying(lambda: folder.single_attempt_filesystem.get_file_info(selector), folder.uri, "listed")
    return {info.base_name: info for info in infos if info.type == fs.FileType.File}


def _shards(folder: Location, files: Iterable[str]) -> tuple[ShardFormat, list[str]]:
    names = [name for name in sorted(files) if name != INDEX_NAME and not name.endswith(sidecar.SUFFIX)]
    by_format: dict[ShardFormat, list[str]] = {
        "webdataset": [name for name in names if name.endswith(".tar")],
        "parquet": [name for name in names if name.endswith(".parquet")],
    }
    present = [shard_format for shard_format, shards in by_format.items() if shards]
    if len(present) != 1:
        kind = "both .tar and .parquet shards" if present else "no .tar or .parquet shards"
        raise DataSetError(f"{folder.uri}: has {kind}; a data set is a folder of shards of one kind.")
    return present[0], by_format[present[0]]


def _columns(folder: Location, names: Sequence[str], requested: Mapping[str, str]) -> Columns:
    """Return the columns of the first shard with a readable footer; the others must have them too."""
    for name in names:
        shard = folder / name
        schema = retrying(lambda shard=shard: _schema(shard), shard.uri, "read")  # type: ignore[misc]
        if schema is not None:
            return Columns.detect(schema, requested, shard.uri)
    raise DataSetError(f"{folder.uri}: none of its {len(names)} shards is a readable Parquet file.")


def _schema(shard: Location) -> pa.Schema | None:
    """Return the schema of a Parquet shard; None when its footer is damaged."""
    with shard.single_attempt_filesystem.open_input_file(shard.path) as file:
        try:
            return pq.read_schema(file)
        except pa.ArrowInvalid:
            return None


def _check(folder: Location, damaged: Sequence[DamagedShard], shards: int, skip_damaged: bool) -> None:
    if not damaged or (skip_damaged and len(damaged) < shards):
        return
    first = damaged[0]
    command = command_line("shards", "index", folder.uri, skip_damaged=True, endpoint=folder.endpoint)
    raise DataSetError(
        f"{folder.uri}: {len(damaged)} of {shards} shards are damaged, for example {first.shard} ({first.reason}); "
        f"copy them again, or leave them out with `{command}`. The others are not read again."
    )
