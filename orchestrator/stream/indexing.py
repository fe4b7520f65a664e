"""Makes the index of shards that already exist."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.location import Location
from orchestrator.stream.index import INDEX_NAME, SIDECAR_SUFFIX, DataSetError, Index, ShardFormat, sidecar, write_index
from orchestrator.stream.tar import Extent, scan

REQUIRED_COLUMNS = {"key", "image", "captions", "fields"}


def index_folder(folder: Location, progress: Callable[[str], None] = lambda _: None) -> Index:
    """Index every shard in a folder and write the index.

    Args:
        folder: holds `*.tar` or `*.parquet` shards, one kind only.
        progress: called with the name of each shard that is done.

    Raises:
        DataSetError: there are no shards, two kinds of them, or a shard cannot be read.
    """
    names = [name for name in sorted(folder.sizes()) if name != INDEX_NAME and not name.endswith(SIDECAR_SUFFIX)]
    kinds: dict[ShardFormat, list[str]] = {
        "webdataset": [name for name in names if name.endswith(".tar")],
        "parquet": [name for name in names if name.endswith(".parquet")],
    }
    present = [kind for kind, shards in kinds.items() if shards]
    if len(present) != 1:
        found = "both .tar and .parquet shards" if present else "no .tar or .parquet shards"
        raise DataSetError(f"{folder.uri}: has {found}; a data set is a folder of shards of one kind.")
    return index_shards(folder, kinds[present[0]], present[0], progress)


def index_shards(
    folder: Location, shards: Sequence[str], shard_format: ShardFormat, progress: Callable[[str], None] = lambda _: None
) -> Index:
    """Index the named shards of a folder, in that order, and write the index."""
    counts, sizes = [], []
    count_samples = _index_tar if shard_format == "webdataset" else _count_parquet
    for name in shards:
        counts.append(count_samples(folder / name))
        sizes.append((folder / name).size() or 0)
        progress(name)
    index = Index(tuple(shards), np.array(counts, np.int64), np.array(sizes, np.int64), shard_format)
    write_index(folder, index)
    return index


def _index_tar(shard: Location) -> int:
    try:
        with shard.filesystem.open_input_file(shard.path) as file:
            extents = list(scan(file))
    except (OSError, tarfile.TarError, pa.ArrowException) as error:
        raise DataSetError(
            f"{shard.uri}: is not a readable tar shard ({error}); remove it or copy it again."
        ) from error
    sidecar(shard).write(_encoded(extents))
    return len(extents)


def _encoded(extents: Sequence[Extent]) -> bytes:
    sink = pa.BufferOutputStream()
    columns = {name: [getattr(extent, name) for extent in extents] for name in ("key", "offset", "size")}
    schema = pa.schema([("key", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
    pq.write_table(pa.table(columns, schema=schema), sink)
    return bytes(sink.getvalue().to_pybytes())


def _count_parquet(shard: Location) -> int:
    try:
        with shard.filesystem.open_input_file(shard.path) as file:
            metadata = pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise DataSetError(f"{shard.uri}: is not a readable Parquet shard ({error}).") from error
    missing = REQUIRED_COLUMNS - set(metadata.schema.to_arrow_schema().names)
    if missing:
        raise DataSetError(
            f"{shard.uri}: lacks the columns {', '.join(sorted(missing))} (needed: key, image, captions, fields)."
        )
    return int(metadata.num_rows)
