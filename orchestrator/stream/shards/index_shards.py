"""Indexes existing shards: each is read once for its sidecar and digest, many concurrently, and work is resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.config.commands import command_line
from orchestrator.storage.jsonl_log import JsonlLog
from orchestrator.storage.location import Location
from orchestrator.storage.retry import retrying
from orchestrator.stream.dataset import sidecar
from orchestrator.stream.dataset.columns import Columns
from orchestrator.stream.dataset.faults import FaultCount, FaultTally
from orchestrator.stream.dataset.index import DataSetError, Index, build_index, check_replaceable, write_index
from orchestrator.stream.shards.executors import Mapper, ThreadMapper
from orchestrator.stream.shards.scan import DamagedShard, ScannedShard, ShardJob, scan_shard
from orchestrator.stream.shards.survey import LeftOut, Survey, survey

LOG_NAME = ".indexing"

THREADS = 8


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
    """A new index, and what there is to know about it.

    Args:
        index: the index, which counts unusable samples as well.
        damaged: the damaged shards that it leaves out.
        faults: the unusable samples by reason.
        addressed: samples whose images are elsewhere, and were not looked at.
        apart: keys whose members are not side by side, the first of them, and its shard.
        left_out: what else looks like shards and is not taken.
        passed_over: for Parquet shards, columns that could have been taken for images or captions as well.
    """

    index: Index
    damaged: tuple[DamagedShard, ...]
    faults: tuple[FaultCount, ...]
    addressed: int
    apart: tuple[int, str, str]
    left_out: tuple[LeftOut, ...]
    passed_over: tuple[str, ...]

    @property
    def usable(self) -> int:
        """Number of samples that can be used, as far as that is known without decoding them."""
        return self.index.total - sum(fault.count for fault in self.faults)


def make_index(folder: Location, options: IndexOptions, progress: Callable[[ShardProgress], None]) -> IndexResult:
    """Index the shards of a data set and write the index.

    Interrupted work is resumed: shards that were read are not read again unless their size or modification time
    changed.

    Args:
        folder: holds `*.tar` or `*.parquet` shards, one kind only; see `shard_folder.locate_shards` for some of them.
        options: of the indexing.
        progress: called after every shard.

    Raises:
        DataSetError: there are no shards, two kinds or several splits of them, a shard lacks a column, shards are
            damaged, or another program's file has the index's name.
        StorageError: the store is failing.
    """
    contents = survey(folder)
    check_replaceable(folder)
    names, files = contents.shards, contents.files
    columns, passed_over = _columns(folder, contents, options.columns)
    with JsonlLog(folder / LOG_NAME) as log:
        known = _finished(log, names, files, columns)
        jobs = (ShardJob(folder / name, contents.format, columns) for name in names if name not in known)
        damaged = []
        for result in _counted(options.mapper(scan_shard, jobs), known, len(names), progress):
            if isinstance(result, DamagedShard):
                damaged.append(result)
                continue
            known[result.facts.shard] = result
            log.add(_record(result, files[result.facts.shard], columns))
        _check(folder, damaged, len(names), options.skip_damaged)
        scanned = [known[name] for name in names if name in known]
        index = build_index(
            (shard.facts for shard in scanned), contents.format, columns.as_mapping() if columns else {}
        )
        write_index(folder, index)
        log.remove()
    faults = FaultTally(fault for shard in scanned for fault in shard.faults).counts()
    in_order = tuple(sorted(damaged, key=lambda shard: shard.shard))
    addressed = sum(shard.addressed for shard in scanned)
    return IndexResult(index, in_order, faults, addressed, _apart(scanned), contents.left_out, passed_over)


def _apart(scanned: Sequence[ScannedShard]) -> tuple[int, str, str]:
    first = next((shard for shard in scanned if shard.apart), None)
    count = sum(shard.apart for shard in scanned)
    return (count, first.first_apart, first.facts.shard) if first else (0, "", "")


def _counted(
    results: Iterator[ScannedShard | DamagedShard],
    known: Mapping[str, ScannedShard],
    shards: int,
    progress: Callable[[ShardProgress], None],
) -> Iterator[ScannedShard | DamagedShard]:
    done, samples, bad = len(known), sum(shard.facts.samples for shard in known.values()), 0
    progress(ShardProgress(done, shards, samples, bad))
    for result in results:
        yield result
        done += 1
        if isinstance(result, DamagedShard):
            bad += 1
        else:
            samples += result.facts.samples
        progress(ShardProgress(done, shards, samples, bad))


def _finished(
    log: JsonlLog, names: Sequence[str], files: Mapping[str, fs.FileInfo], columns: Columns | None
) -> dict[str, ScannedShard]:
    """Return the shards that interrupted work has read and that have not changed since."""
    finished, wanted = {}, set(names)
    for record in log.read():
        if "scanned" not in record:  # of an older version
            continue
        shard = ScannedShard.from_json(record["scanned"])
        name = shard.facts.shard
        exists = name in wanted and f"{name}{sidecar.SUFFIX}" in files
        if exists and record == _record(shard, files[name], columns):
            finished[name] = shard
    return finished


def _record(shard: ScannedShard, file: fs.FileInfo, columns: Columns | None) -> dict[str, Any]:
    state = {"bytes": file.size, "modified_ns": file.mtime_ns}
    return {
        "scanned": {**asdict(shard), "faults": list(map(asdict, shard.faults))},
        "file": state,
        "columns": columns.as_mapping() if columns else {},
    }


def _columns(
    folder: Location, contents: Survey, requested: Mapping[str, str]
) -> tuple[Columns | None, tuple[str, ...]]:
    """Return the columns of the first Parquet shard with a readable footer, and those that were passed over.

    The other shards must have the same columns. Tar shards have none.
    """
    if contents.format != "parquet":
        return None, ()
    for name in contents.shards:
        shard = folder / name
        schema = retrying(lambda shard=shard: _schema(shard), shard.uri, "read")  # type: ignore[misc]
        if schema is not None:
            columns = Columns.detect(schema, requested, shard.uri)
            return columns, tuple(columns.passed_over(schema))
    raise DataSetError(f"{folder.uri}: none of its {len(contents.shards)} shards is a readable Parquet file.")


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
