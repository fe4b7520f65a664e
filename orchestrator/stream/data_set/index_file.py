"""The file `index.parquet` beside the shards, and whether the shards still agree with it."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.location import Location
from orchestrator.stream.data_set.index import DIGEST_BYTES, VERSION, DataSetError, Index, Names, ShardFormat

INDEX_NAME = "index.parquet"


def write_index(folder: Location, index: Index) -> None:
    """Write the index of a folder of shards; it comes last, so that a folder with an index is complete."""
    digests = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(DIGEST_BYTES), len(index.shards), [None, pa.py_buffer(np.ascontiguousarray(index.digests))]
    )
    table = pa.table({"shard": index.shards.array, "samples": index.samples, "bytes": index.bytes, "digest": digests})
    metadata = {"fuseray_index": str(VERSION), "format": index.format, "columns": json.dumps(dict(index.columns))}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    (folder / INDEX_NAME).write(sink.getvalue().to_pybytes())


def read_index(folder: Location) -> Index:
    """Read the index of a data set.

    Raises:
        DataSetError: there is no data, no index, or the index is damaged or empty.
    """
    location = folder / INDEX_NAME
    if location.size() is None:
        raise DataSetError(_why_no_index(folder))
    try:
        table = pq.read_table(pa.BufferReader(location.read()))
        metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        if metadata.get("fuseray_index") != str(VERSION):
            raise DataSetError(
                f"{location.uri}: index version {metadata.get('fuseray_index')} is not {VERSION}; {_remake(folder)}"
            )
        index = _index(table, metadata)
    except (pa.ArrowException, KeyError) as error:
        raise DataSetError(f"{location.uri}: is not a readable index ({error}); {_remake(folder)}") from error
    if index.total == 0:
        raise DataSetError(f"{location.uri}: the data set has no samples.")
    return index


def check_shards(folder: Location, index: Index) -> list[str]:
    """Compare the shard files with the index.

    Returns:
        The shards that are shorter than when they were indexed; their lost samples will be skipped.

    Raises:
        DataSetError: shards are missing or have grown since they were indexed.
    """
    sizes = folder.sizes()
    missing = [name for name in index.shards if name not in sizes]
    if missing:
        raise DataSetError(
            f"{folder.uri}: {len(missing)} of {len(index.shards)} shards are missing, for example {missing[0]}; "
            f"put them back, or {_remake(folder)}"
        )
    grown = [name for name, size in zip(index.shards, index.bytes, strict=True) if sizes[name] > size]
    if grown:
        raise DataSetError(f"{folder.uri}: {grown[0]} has grown since it was indexed; {_remake(folder)}")
    return [name for name, size in zip(index.shards, index.bytes, strict=True) if sizes[name] < size]


def _index(table: pa.Table, metadata: dict[str, str]) -> Index:
    digests = table.column("digest").combine_chunks()
    start = digests.offset * DIGEST_BYTES
    return Index(
        shards=Names(table.column("shard").combine_chunks()),
        samples=table.column("samples").to_numpy(),
        bytes=table.column("bytes").to_numpy(),
        digests=np.frombuffer(digests.buffers()[1], np.uint8)[start : start + table.num_rows * DIGEST_BYTES].reshape(
            -1, DIGEST_BYTES
        ),
        format=_format(metadata),
        columns=json.loads(metadata["columns"]),
    )


def _format(metadata: dict[str, str]) -> ShardFormat:
    found = metadata.get("format")
    if found == "webdataset":
        return "webdataset"
    if found == "parquet":
        return "parquet"
    raise DataSetError(f"unknown shard format {found!r}; known: webdataset, parquet.")


def _why_no_index(folder: Location) -> str:
    names = list(folder.sizes())
    shards = [name for name in names if name.endswith((".tar", ".parquet"))]
    if shards:
        return f"{folder.uri}: has {len(shards)} shards but no {INDEX_NAME}; {_remake(folder)}"
    if names or folder.exists():
        return f"{folder.uri}: has no .tar or .parquet shards; build some, for example with `fuseray data emoji`."
    return (
        f"{folder.uri}: does not exist; check data.train and data.held_out, or build shards with `fuseray data emoji`."
    )


def _remake(folder: Location) -> str:
    return f"make the index again with `fuseray shards index {folder.uri}`."
