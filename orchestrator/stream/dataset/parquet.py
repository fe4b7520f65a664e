"""Parquet shards: samples from rows, images at addresses, and writing shards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.location import Location, locate, scheme_of
from orchestrator.storage.range_reader import OBJECT_STORE_READERS, open_stored
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset.columns import Columns
from orchestrator.stream.dataset.judgement import (
    DETAIL_LENGTH,
    FAULTS_OF_PATHS,
    check_address,
    check_captions,
    judging,
    make_sample,
    parse_fields,
)
from orchestrator.stream.dataset.sidecar import Content, Unreadable, parse_captions
from workloads.contract import BadSample, Sample

ROW_GROUP = 256
"""Rows per row group in the shards written here: the least that a reader fetches."""


@dataclass(frozen=True, slots=True)
class Addressed:
    """A sample whose image is elsewhere; all else has been judged."""

    key: str
    address: str
    captions: tuple[str, ...]
    fields: Mapping[str, Any]


def read_rows(folder: Location, shard: Location, rows: Sequence[int], columns: Columns) -> list[Content]:
    """Return the samples at some rows of a shard, in the order given.

    Args:
        folder: the data set, which relative addresses start from.
        shard: the shard.
        rows: the rows.
        columns: its columns by role.

    Raises:
        StorageError: the store is failing.
    """
    ends = _group_ends(shard)
    groups = sorted({_group_of(ends, row) for row in rows})
    with _opened(shard) as file:
        tables = {group: _row_group(file, group, columns) for group in groups}
    contents = []
    for row in rows:
        group = _group_of(ends, row)
        first = ends[group - 1] if group else 0
        contents.append(parse_row(tables[group], row - first, columns, f"{shard.name}:{row}"))
    return _with_images(folder, contents)


def parse_row(
    table: pa.Table | pa.RecordBatch | BadSample, row: int, columns: Columns, default_key: str
) -> Content | Addressed:
    """Return the sample in a row, as far as it stands there.

    Args:
        table: some rows of a shard, or why they cannot be read.
        row: the row in `table`.
        columns: the shard's columns by role.
        default_key: the sample's key if it has none of its own.
    """
    key = default_key
    try:
        if isinstance(table, BadSample):
            raise table
        with judging():
            if columns.key and (value := _cell(table, columns.key, row)) is not None:
                key = str(value)
            captions = _captions(_cell(table, columns.captions, row))
            check_captions(captions, f"in column {columns.captions!r}")
            fields = _fields_of(table, row, columns)
            name = columns.image or columns.address
            image = _image(_cell(table, name, row), f"column {name!r} of type {table.schema.field(name).type}")
            if isinstance(image, bytes) and columns.image:
                return make_sample(key, image, captions, fields)
            address = image.decode() if isinstance(image, bytes) else image
            check_address(address)
            return Addressed(key, address, captions, fields)
    except BadSample as fault:
        return Unreadable(key, fault)


def write_parquet(samples: Sequence[Sample]) -> bytes:
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
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression={"captions": "zstd", "fields": "zstd"},
        use_dictionary=["captions.list.element", "fields"],  # of images it would be a second copy to read
    )
    return sink.getvalue()


@contextmanager
def _opened(shard: Location) -> Iterator[pq.ParquetFile]:
    try:
        with open_stored(shard) as stored, pq.ParquetFile(stored, pre_buffer=True) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{shard.uri}: cannot be read: {error}") from error


@lru_cache(maxsize=4096)
def _group_ends(shard: Location) -> tuple[int, ...]:
    with _opened(shard) as file:
        metadata = file.metadata
    ends, total = [], 0
    for group in range(metadata.num_row_groups):
        total += metadata.row_group(group).num_rows
        ends.append(total)
    return tuple(ends)


def _group_of(ends: Sequence[int], row: int) -> int:
    return next(group for group, end in enumerate(ends) if row < end)


def _row_group(file: pq.ParquetFile, group: int, columns: Columns) -> pa.Table | BadSample:
    """Return the rows of a row group, or why it cannot be read."""
    try:
        return file.read_row_group(group, columns=columns.names)
    except StorageError:
        raise
    except (OSError, pa.ArrowException) as error:
        return BadSample("shard is corrupt", f"row group {group}: {error}")


def _cell(table: pa.Table | pa.RecordBatch, name: str, row: int) -> Any:
    return table.column(name)[row].as_py()


def _captions(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return parse_captions([caption.decode() if isinstance(caption, bytes) else caption for caption in values])


def _fields_of(table: pa.Table | pa.RecordBatch, row: int, columns: Columns) -> dict[str, Any]:
    """Return a sample's fields; among them the image id, if it has a column of its own."""
    fields = _fields(_cell(table, columns.fields, row)) if columns.fields else {}
    if not columns.image_id or fields.get("image_id") is not None:
        return fields
    value = _cell(table, columns.image_id, row)
    return fields if value is None else {**fields, "image_id": value if isinstance(value, int | float) else str(value)}


def _fields(value: str | bytes | dict[str, Any] | None) -> dict[str, Any]:
    if isinstance(value, dict):
        return dict(json.loads(json.dumps(value, default=str)))
    text = value.decode() if isinstance(value, bytes) else value
    return parse_fields(text) if text else {}


def _image(value: object, column: str) -> bytes | str:
    """Return an image's bytes, or the text of its address."""
    if isinstance(value, list):
        if len(value) > 1:
            raise BadSample("image is ambiguous", f"{len(value)} images in a list, {column}")
        value = value[0] if value else None
    if isinstance(value, dict):
        content = value.get("bytes")
        value = value.get("path") if content is None else content
    if isinstance(value, bytes) or (isinstance(value, str) and value):
        return value
    raise BadSample("image is missing", f"nothing in {column}")


def _with_images(folder: Location, contents: Sequence[Content | Addressed]) -> list[Content]:
    if not any(isinstance(content, Addressed) for content in contents):
        return [content for content in contents if not isinstance(content, Addressed)]
    with ThreadPoolExecutor(OBJECT_STORE_READERS) as pool:
        return list(pool.map(lambda content: _with_image(folder, content), contents))


def _with_image(folder: Location, content: Content | Addressed) -> Content:
    if not isinstance(content, Addressed):
        return content
    try:
        image = _fetch(_locate_image(folder, content.address))
        return make_sample(content.key, image, content.captions, content.fields)
    except BadSample as fault:
        return Unreadable(content.key, fault)


def _fetch(location: Location) -> bytes:
    if location.is_local:
        try:
            return Path(location.path).read_bytes()
        except OSError as error:
            if error.errno not in FAULTS_OF_PATHS:
                raise StorageError(f"{location.uri}: cannot be read: {error.strerror}.") from error
            raise BadSample("image is missing", f"{location.uri[:DETAIL_LENGTH]}: {error.strerror}") from error
    if location.size() is None:
        raise BadSample("image is missing", location.uri[:DETAIL_LENGTH])
    return location.read()


def _locate_image(folder: Location, address: str) -> Location:
    scheme = scheme_of(address)
    if not scheme and not address.startswith("/"):
        return folder / address
    if scheme and folder.uri.startswith(f"{scheme}://"):
        return Location(folder.filesystem, address.partition("://")[2], address)
    return locate(address)
