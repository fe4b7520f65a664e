"""Parquet shards: the columns by role, samples from rows, and writing shards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.location import Location, locate
from orchestrator.storage.range_reader import OBJECT_STORE_READERS, open_stored
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.dataset.sidecar import Content, Unreadable, parse_captions
from workloads.contract import BadSample, Sample

COLUMN_NAMES = {
    "image": ("image", "jpg", "png", "image_bytes"),
    "address": ("image_uri", "image_url", "uri", "url"),
    "captions": ("captions", "caption", "text", "txt"),
    "key": ("key", "__key__", "id", "image_id"),
    "fields": ("fields", "json"),
}
"""Recognised column names by role, in order of preference."""

NAMING = {
    "images": "`fuseray shards index URI --image-column NAME`, or --address-column where they are not inside",
    "captions": "`fuseray shards index URI --captions-column NAME`",
}
"""How to name a column of another name."""

ROW_GROUP = 256
"""Rows per row group in the shards written here: the least that a reader fetches."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each role in a Parquet shard; an empty name for none.

    Args:
        image: encoded images, as bytes or as a struct with a field `bytes`.
        address: URIs of images, or paths relative to the data set; used where there is no `image`.
        captions: a text or a list of texts.
        key: unique keys; without one, a sample's key is its shard and row.
        fields: a JSON object of further fields.
    """

    image: str
    address: str
    captions: str
    key: str
    fields: str

    @classmethod
    def detect(cls, schema: pa.Schema, requested: Mapping[str, str], shard: str) -> Columns:
        """Return the columns of a shard.

        Args:
            schema: of the shard.
            requested: names that the user gave, by role; the other roles are detected.
            shard: its URI, for messages.

        Raises:
            DataSetError: a requested column is missing, or there are no images or captions.
        """
        absent = [name for name in requested.values() if name not in schema.names]
        if absent:
            raise DataSetError(f"{shard}: has no column {absent[0]!r}; its columns: {', '.join(schema.names)}.")
        columns = {
            role: requested.get(role) or next((name for name in names if name in schema.names), "")
            for role, names in COLUMN_NAMES.items()
        }
        for needed, roles in (("images", ("image", "address")), ("captions", ("captions",))):
            if not any(columns[role] for role in roles):
                known = ", ".join(name for role in roles for name in COLUMN_NAMES[role])
                raise DataSetError(
                    f"{shard}: no column of {needed} among {', '.join(schema.names)}; known names are {known}. "
                    f"Name yours with {NAMING[needed]}."
                )
        return cls(**columns)

    def as_mapping(self) -> dict[str, str]:
        """Return the columns by role, for the index."""
        return asdict(self)

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        image = self.image or self.address
        return [name for name in (image, self.captions, self.key, self.fields) if name]


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
        contents.append(_content(tables[group], row - first, columns, f"{shard.name}:{row}"))
    return contents if columns.image else _fetch_images(folder, contents)


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


def _content(table: pa.Table | BadSample, row: int, columns: Columns, default_key: str) -> Content:
    if isinstance(table, BadSample):
        return Unreadable(default_key, table)
    key = default_key
    try:
        values = table.slice(row, 1).to_pylist()[0]
        if columns.key and values[columns.key] is not None:
            key = str(values[columns.key])
        captions = parse_captions(values[columns.captions])
        image = _image(values[columns.image or columns.address])
        if not captions:
            raise BadSample("caption is missing")
        return Sample(key, image, captions, json.loads(values.get(columns.fields) or "{}"))
    except BadSample as fault:
        return Unreadable(key, fault)
    except UnicodeDecodeError as error:
        return Unreadable(key, BadSample("text is not UTF-8", str(error)))
    except (json.JSONDecodeError, RecursionError) as error:
        return Unreadable(key, BadSample("json is malformed", str(error)))


def _image(value: object) -> bytes:
    """Return an image's bytes, or the bytes of its address."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, bytes) or not content:
        raise BadSample("image is missing")
    return content


def _fetch_images(folder: Location, contents: Sequence[Content]) -> list[Content]:
    with ThreadPoolExecutor(OBJECT_STORE_READERS) as pool:
        return list(pool.map(lambda content: _fetch_image(folder, content), contents))


def _fetch_image(folder: Location, content: Content) -> Content:
    if isinstance(content, Unreadable):
        return content
    address = content.image.decode()
    if urlsplit(address).scheme not in ("", "file", "s3", "gs", "gcs"):
        return Unreadable(content.key, BadSample("image address is not supported", address[:200]))
    location = _locate_image(folder, address)
    if location.size() is None:
        return Unreadable(content.key, BadSample("image is missing", location.uri))
    return Sample(content.key, location.read(), content.captions, content.fields)


def _locate_image(folder: Location, address: str) -> Location:
    scheme = urlsplit(address).scheme
    if not scheme and not address.startswith("/"):
        return folder / address
    if scheme and folder.uri.startswith(f"{scheme}://"):
        return Location(folder.filesystem, address.partition("://")[2], address)
    return locate(address)
