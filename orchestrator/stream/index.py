"""The index of a data set: which shards it has and how many samples are in each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.spec.errors import FuserayError
from orchestrator.storage.location import Location
from orchestrator.stream.permutation import Ids

INDEX_NAME = "index.parquet"
SIDECAR_SUFFIX = ".samples.parquet"
VERSION = 1

ShardFormat = Literal["webdataset", "parquet"]


class DataSetError(FuserayError):
    """The index of a data set is missing, unreadable or does not match its shards."""


@dataclass(frozen=True)
class Index:
    """The shards of a data set in a fixed order.

    Args:
        shards: file names beside the index.
        samples: samples in each shard, int64[shards].
        bytes: size of each shard file, int64[shards].
        format: how the shards are written.
    """

    shards: tuple[str, ...]
    samples: NDArray[np.int64]
    bytes: NDArray[np.int64]
    format: ShardFormat

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Number of the first sample of each shard, and the total at the end, int64[shards + 1]."""
        return np.concatenate([[0], np.cumsum(self.samples)]).astype(np.int64)

    @property
    def total(self) -> int:
        """Samples in the data set."""
        return int(self.starts[-1])

    @cached_property
    def digest(self) -> str:
        """A digest of the shard names, sample counts and sizes: equal digests give equal orders."""
        content = hashlib.sha256(f"{VERSION} {self.format} {' '.join(self.shards)}".encode())
        content.update(self.samples.astype("<i8").tobytes())
        content.update(self.bytes.astype("<i8").tobytes())
        return content.hexdigest()

    def find(self, numbers: Ids) -> tuple[Ids, Ids]:
        """Return the shard of each sample number and its row in that shard, int64[n] each."""
        shards = np.searchsorted(self.starts, numbers, side="right") - 1
        return shards.astype(np.int64), numbers - self.starts[shards]


def write_index(folder: Location, index: Index) -> None:
    """Write the index of a folder of shards; it comes last, so that a folder with an index is complete."""
    table = pa.table({"shard": list(index.shards), "samples": index.samples, "bytes": index.bytes})
    metadata = {"fuseray_index": str(VERSION), "format": index.format}
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
        columns = {name: table.column(name).to_numpy() for name in ("samples", "bytes")}
        index = Index(tuple(table.column("shard").to_pylist()), columns["samples"], columns["bytes"], _format(metadata))
    except (pa.ArrowException, KeyError) as error:
        raise DataSetError(f"{location.uri}: is not a readable index ({error}); {_remake(folder)}") from error
    if index.total == 0:
        raise DataSetError(f"{location.uri}: the data set has no samples.")
    return index


def sidecar(shard: Location) -> Location:
    """Return where the extents of a tar shard's samples are kept."""
    return Location(shard.filesystem, shard.path + SIDECAR_SUFFIX, shard.uri + SIDECAR_SUFFIX)


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
