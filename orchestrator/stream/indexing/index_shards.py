"""Makes the index of shards that exist; each shard is read once, many of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.storage.jsonl_log import Journal
from orchestrator.storage.location import Location
from orchestrator.storage.retry import retrying
from orchestrator.stream.data_set import sidecar
from orchestrator.stream.data_set.index import DataSetError, Index, ShardFormat
from orchestrator.stream.data_set.index_file import INDEX_NAME, write_index
from orchestrator.stream.data_set.parquet import Columns
from orchestrator.stream.indexing.parallel import InThreads, Mapper
from orchestrator.stream.indexing.shard_facts import ShardFacts, index_of
from orchestrator.stream.indexing.shard_scan import Damaged, ShardJob, scan_shard

JOURNAL_NAME = ".indexing"
THREADS = 8


@dataclass(frozen=True, slots=True)
class Standing:
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
    mapper: Mapper = field(default_factory=lambda: InThreads(THREADS))


@dataclass(frozen=True, slots=True)
class Indexed:
    """An index that was made, and the damaged shards that it leaves out."""

    index: Index
    damaged: tuple[Damaged, ...]


def index_folder(folder: Location, progress: Callable[[Standing], None] = lambda _: None) -> Index:
    """Index every shard in a folder and write the index; see `make_index`."""
    return make_index(folder, IndexOptions(), progress).index


def make_index(folder: Location, options: IndexOptions, progress: Callable[[Standing], None]) -> Indexed:
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
    with Journal(folder / JOURNAL_NAME) as journal:
        known = _known(journal, files, columns)
        jobs = (ShardJob(folder / name, shard_format, columns) for name in names if name not in known)
        damaged = []
        for found in _counted(options.mapper(scan_shard, jobs), known, len(names), progress):
            if isinstance(found, Damaged):
                damaged.append(found)
                continue
            known[found.shard] = found
            journal.add(_note(found, files[found.shard], columns))
        _check(folder, damaged, len(names), options.skip_damaged)
        index = index_of(
            (known[name] for name in names if name in known), shard_format, columns.as_mapping() if columns else {}
        )
        write_index(folder, index)
        journal.remove()
    return Indexed(index, tuple(sorted(damaged, key=lambda one: one.shard)))


def _counted(
    results: Iterator[ShardFacts | Damaged],
    known: Mapping[str, ShardFacts],
    shards: int,
    progress: Callable[[Standing], None],
) -> Iterator[ShardFacts | Damaged]:
    done, samples, bad = len(known), sum(one.samples for one in known.values()), 0
    progress(Standing(done, shards, samples, bad))
    for found in results:
        yield found
        done += 1
        if isinstance(found, Damaged):
            bad += 1
        else:
            samples += found.samples
        progress(Standing(done, shards, samples, bad))


def _known(journal: Journal, files: Mapping[str, fs.FileInfo], columns: Columns | None) -> dict[str, ShardFacts]:
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
    found = retrying(lambda: folder.requests.get_file_info(selector), folder.uri, "listed")
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
            return Columns.found_in(schema, wanted, shard.uri)
    raise DataSetError(f"{folder.uri}: none of its {len(names)} shards is a readable Parquet file.")


def _schema(shard: Location) -> pa.Schema | None:
    """Return the schema of a Parquet shard; None when its footer is damaged."""
    with shard.requests.open_input_file(shard.path) as file:
        try:
            return pq.read_schema(file)
        except pa.ArrowInvalid:
            return None


def _check(folder: Location, damaged: Sequence[Damaged], shards: int, skip_damaged: bool) -> None:
    if not damaged or (skip_damaged and len(damaged) < shards):
        return
    first = damaged[0]
    raise DataSetError(
        f"{folder.uri}: {len(damaged)} of {shards} shards are damaged, for example {first.shard} ({first.reason}); "
        "copy them again, or leave them out with `fuseray shards index --skip-damaged`. The others are not read again."
    )
