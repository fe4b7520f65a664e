"""Makes the index of shards that exist; each shard is read once, many of them at a time."""

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

# Reads one shard from its beginning to its end: its samples and its digest in one pass.


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
class DamagedShard:
    """A shard that is there but is not readable to its end, and why."""

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
    """Read a Parquet shard, whose footer comes last, by way of a copy where it is not local."""
    with TemporaryDirectory(prefix="fuseray-index-") as scratch:
        copy = None if shard.is_local else Path(scratch) / "shard"
        stream = HashingReader(shard)
        stream.drain(copy)
        entries = list(_rows(copy or Path(shard.path), shard, columns))
        return entries, ShardFacts(shard.name, len(entries), stream.size, stream.digest())


def _rows(path: Path, shard: Location, columns: Columns) -> Iterator[SidecarEntry]:
    row = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_columns(file.schema_arrow, shard, columns)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns.names):
                yield from _entries(batch, row, shard, columns)
                row += batch.num_rows
    except OSError as error:  # how Parquet's decoders report damage
        raise _CorruptError(str(error)) from error


def _entries(batch: pa.RecordBatch, row: int, shard: Location, columns: Columns) -> Iterator[SidecarEntry]:
    image = batch.column(columns.image or columns.address)
    sizes = pc.binary_length(pc.struct_field(image, "bytes") if pa.types.is_struct(image.type) else image)
    keys = batch.column(columns.key) if columns.key else pa.nulls(batch.num_rows)
    captions = batch.column(columns.captions)
    cells = zip(keys.to_pylist(), sizes.to_pylist(), captions.to_pylist(), strict=True)
    for place, (key, size, cell) in enumerate(cells, start=row):
        yield SidecarEntry(f"{shard.name}:{place}" if key is None else str(key), place, size or 0, _words(cell))


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


# Makes the index of shards that exist; each shard is read once, many of them at a time.


JOURNAL_NAME = ".indexing"
THREADS = 8


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """How far work on shards is: shards done, of how many, their samples, and what was found to be unusable."""

    shards: int
    of: int
    samples: int
    bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """How to make an index.

    Args:
        columns: for Parquet shards, names of columns by role (see `parquet.Columns`); the others are found.
        skip_damaged: leave damaged shards out of the index.
        mapper: reads shards at once.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    skip_damaged: bool = False
    mapper: Mapper = field(default_factory=lambda: ThreadMapper(THREADS))


@dataclass(frozen=True, slots=True)
class IndexResult:
    """An index that was made, and the damaged shards that it leaves out."""

    index: Index
    damaged: tuple[DamagedShard, ...]


def make_index(folder: Location, options: IndexOptions, progress: Callable[[ShardProgress], None]) -> IndexResult:
    """Index every shard in a folder and write the index.

    Work that was interrupted is taken up again: shards that were read are not read again unless their size or time
    of modification changed.

    Args:
        folder: holds `*.tar` or `*.parquet` shards, one kind only.
        options: how.
        progress: called after every shard.

    Raises:
        DataSetError: there are no shards, two kinds of them, a shard lacks a column, or shards are damaged.
        StorageError: the store is failing.
    """
    files = _files(folder)
    shard_format, names = _shards(folder, files)
    columns = _columns(folder, names, options.columns) if shard_format == "parquet" else None
    with JsonlLog(folder / JOURNAL_NAME) as journal:
        known = _known(journal, files, columns)
        jobs = (ShardJob(folder / name, shard_format, columns) for name in names if name not in known)
        damaged = []
        for found in _counted(options.mapper(scan_shard, jobs), known, len(names), progress):
            if isinstance(found, DamagedShard):
                damaged.append(found)
                continue
            known[found.shard] = found
            journal.add(_note(found, files[found.shard], columns))
        _check(folder, damaged, len(names), options.skip_damaged)
        index = build_index(
            (known[name] for name in names if name in known), shard_format, columns.as_mapping() if columns else {}
        )
        write_index(folder, index)
        journal.remove()
    return IndexResult(index, tuple(sorted(damaged, key=lambda one: one.shard)))


def _counted(
    results: Iterator[ShardFacts | DamagedShard],
    known: Mapping[str, ShardFacts],
    shards: int,
    progress: Callable[[ShardProgress], None],
) -> Iterator[ShardFacts | DamagedShard]:
    done, samples, bad = len(known), sum(one.samples for one in known.values()), 0
    progress(ShardProgress(done, shards, samples, bad))
    for found in results:
        yield found
        done += 1
        if isinstance(found, DamagedShard):
            bad += 1
        else:
            samples += found.samples
        progress(ShardProgress(done, shards, samples, bad))


def _known(journal: JsonlLog, files: Mapping[str, fs.FileInfo], columns: Columns | None) -> dict[str, ShardFacts]:
    """Return what earlier, interrupted work found and still holds."""
    found = {}
    for note in journal.read():
        facts = ShardFacts(**note["facts"])
        is_there = facts.shard in files and f"{facts.shard}{sidecar.SUFFIX}" in files
        if is_there and note == _note(facts, files[facts.shard], columns):
            found[facts.shard] = facts
    return found


def _note(facts: ShardFacts, file: fs.FileInfo, columns: Columns | None) -> dict[str, Any]:
    state = {"bytes": file.size, "modified_ns": file.mtime_ns}
    return {"facts": facts.as_json(), "file": state, "columns": columns.as_mapping() if columns else {}}


def _files(folder: Location) -> dict[str, fs.FileInfo]:
    """Return the files directly in a folder."""
    selector = fs.FileSelector(folder.path, allow_not_found=True)
    found = retrying(lambda: folder.single_attempt_filesystem.get_file_info(selector), folder.uri, "listed")
    return {info.base_name: info for info in found if info.type == fs.FileType.File}


def _shards(folder: Location, files: Iterable[str]) -> tuple[ShardFormat, list[str]]:
    names = [name for name in sorted(files) if name != INDEX_NAME and not name.endswith(sidecar.SUFFIX)]
    kinds: dict[ShardFormat, list[str]] = {
        "webdataset": [name for name in names if name.endswith(".tar")],
        "parquet": [name for name in names if name.endswith(".parquet")],
    }
    present = [kind for kind, shards in kinds.items() if shards]
    if len(present) != 1:
        found = "both .tar and .parquet shards" if present else "no .tar or .parquet shards"
        raise DataSetError(f"{folder.uri}: has {found}; a data set is a folder of shards of one kind.")
    return present[0], kinds[present[0]]


def _columns(folder: Location, names: Sequence[str], wanted: Mapping[str, str]) -> Columns:
    """Return the columns of the first shard whose footer can be read; the others must have them too."""
    for name in names:
        shard = folder / name
        schema = retrying(lambda shard=shard: _schema(shard), shard.uri, "read")  # type: ignore[misc]
        if schema is not None:
            return Columns.detect(schema, wanted, shard.uri)
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
    raise DataSetError(
        f"{folder.uri}: {len(damaged)} of {shards} shards are damaged, for example {first.shard} ({first.reason}); "
        "copy them again, or leave them out with `fuseray shards index --skip-damaged`. The others are not read again."
    )
