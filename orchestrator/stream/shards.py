"""Reading samples out of shards by (shard, row)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.location import Location, StorageError
from orchestrator.stream import tar
from orchestrator.stream.index import ShardFormat, sidecar
from workloads.contract import BadSample, Sample

MERGE_GAP_BYTES = 64 * 1024
"""Ranges closer than this are read together: one longer read beats two round trips."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample that could not be read, and why."""

    key: str
    fault: BadSample


class ShardReader(Protocol):
    """Reads rows of one shard."""

    def read(self, rows: Sequence[int]) -> list[Sample | Unreadable]:
        """Return the samples at some rows, in the order asked for.

        Raises:
            StorageError: the store is failing; nothing is known about the samples.
        """
        ...


@lru_cache(maxsize=64)
def open_shard(location: Location, shard_format: ShardFormat) -> ShardReader:
    """Open a shard of a data set; readers are kept for a while, so asking again is cheap."""
    return TarReader(location) if shard_format == "webdataset" else ParquetReader(location)


class TarReader:
    """Reads samples of a tar shard by byte range, with the help of its sidecar."""

    def __init__(self, location: Location) -> None:
        self._location = location
        table = pq.read_table(pa.BufferReader(sidecar(location).read()))
        columns = (table.column(name).to_pylist() for name in ("key", "offset", "size"))
        self._extents = [tar.Extent(*row) for row in zip(*columns, strict=True)]

    def read(self, rows: Sequence[int]) -> list[Sample | Unreadable]:
        """Return the samples at some rows, in the order asked for."""
        wanted = sorted({self._extents[row] for row in rows}, key=lambda extent: extent.offset)
        found: dict[tar.Extent, Sample | Unreadable] = {}
        try:
            with self._location.filesystem.open_input_file(self._location.path) as file:
                for group in _merged(wanted):
                    found |= _read_together(file, group)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self._location.uri}: cannot be read: {error}") from error
        return [found[self._extents[row]] for row in rows]


class ParquetReader:
    """Reads samples of a Parquet shard with columns key, image, captions and fields (JSON text)."""

    def __init__(self, location: Location) -> None:
        self._location = location
        with location.filesystem.open_input_file(location.path) as file:
            metadata = pq.read_metadata(file)
        ends, total = [], 0
        for group in range(metadata.num_row_groups):
            total += metadata.row_group(group).num_rows
            ends.append(total)
        self._group_ends = ends

    def read(self, rows: Sequence[int]) -> list[Sample | Unreadable]:
        """Return the samples at some rows, in the order asked for."""
        groups = sorted({self._group_of(row) for row in rows})
        first_rows = [self._group_ends[group - 1] if group else 0 for group in groups]
        try:
            with self._location.filesystem.open_input_file(self._location.path) as stream:
                file = pq.ParquetFile(stream)
                tables = [
                    file.read_row_group(group, columns=["key", "image", "captions", "fields"]) for group in groups
                ]
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self._location.uri}: cannot be read: {error}") from error
        by_group = dict(zip(groups, zip(first_rows, tables, strict=True), strict=True))
        return [self._sample(*by_group[self._group_of(row)], row) for row in rows]

    def _group_of(self, row: int) -> int:
        return next(group for group, end in enumerate(self._group_ends) if row < end)

    @staticmethod
    def _sample(first_row: int, table: Any, row: int) -> Sample | Unreadable:
        values = table.slice(row - first_row, 1).to_pylist()[0]
        key = values["key"]
        if not values["image"]:
            return Unreadable(key, BadSample("image is missing"))
        if not values["captions"]:
            return Unreadable(key, BadSample("caption is missing"))
        return Sample(key, values["image"], tuple(values["captions"]), json.loads(values["fields"] or "{}"))


def write_parquet(samples: Sequence[Sample], rows_per_group: int = 256) -> bytes:
    """Return a Parquet shard of samples."""
    table = pa.table(
        {
            "key": [sample.key for sample in samples],
            "image": pa.array([sample.image for sample in samples], pa.binary()),
            "captions": pa.array([list(sample.captions) for sample in samples], pa.list_(pa.string())),
            "fields": [json.dumps(dict(sample.fields), ensure_ascii=False, sort_keys=True) for sample in samples],
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=rows_per_group, compression={"captions": "zstd", "fields": "zstd"})
    return sink.getvalue()


def _read_together(file: Any, extents: Sequence[tar.Extent]) -> dict[tar.Extent, Sample | Unreadable]:
    start = extents[0].offset
    stop = min(extents[-1].stop, file.size())
    content = memoryview(file.read_at(max(0, stop - start), start))
    return {extent: _parsed(extent, bytes(content[extent.offset - start : extent.stop - start])) for extent in extents}


def _parsed(extent: tar.Extent, content: bytes) -> Sample | Unreadable:
    try:
        return tar.parse(extent.key, content, extent.size)
    except BadSample as fault:
        return Unreadable(extent.key, fault)


def _merged(extents: Sequence[tar.Extent]) -> list[list[tar.Extent]]:
    groups: list[list[tar.Extent]] = []
    for extent in extents:
        if groups and extent.offset - groups[-1][-1].stop <= MERGE_GAP_BYTES:
            groups[-1].append(extent)
        else:
            groups.append([extent])
    return groups
