"""The sidecar of a shard: a small Parquet file with the key, extent and caption lengths of each sample.

Also `Content`, a stored sample or why it could not be read, and the parsing of captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError
from workloads.contract import BadSample, Sample

SUFFIX = ".samples.parquet"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("caption_words", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True)
class SidecarEntry:
    """One sample of a shard.

    Args:
        key: its key.
        offset: byte offset of its members in a tar shard; its row in a Parquet shard.
        size: bytes of its members in a tar shard; of its image, or of its address, in a Parquet shard.
        caption_words: number of words of each caption; empty when they cannot be read.
    """

    key: str
    offset: int
    size: int
    caption_words: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Sidecar:
    """The entries of a shard's samples in storage order, a column per field of `SidecarEntry`."""

    keys: pa.StringArray
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    caption_words: pa.ListArray

    def key(self, row: int) -> str:
        """Return the key of a sample."""
        return str(self.keys[row].as_py())


def sidecar_location(shard: Location) -> Location:
    """Return the location of a shard's sidecar."""
    return Location(shard.filesystem, shard.path + SUFFIX, shard.uri + SUFFIX)


def write_sidecar(shard: Location, entries: Sequence[SidecarEntry]) -> None:
    """Write the sidecar of a shard."""
    columns = {name: [getattr(entry, name) for entry in entries] for name in SCHEMA.names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd")
    sidecar_location(shard).write(sink.getvalue().to_pybytes())


def read_sidecar(shard: Location) -> Sidecar:
    """Read the sidecar of a shard.

    Raises:
        DataSetError: it is damaged.
        StorageError: it is missing or cannot be read.
    """
    location = sidecar_location(shard)
    try:
        table = pq.read_table(pa.BufferReader(location.read()), schema=SCHEMA).combine_chunks()
    except pa.ArrowException as error:
        raise DataSetError(
            f"{location.uri}: is damaged ({error}); make the index again with `fuseray shards index URI`."
        ) from error
    keys, offsets, sizes, words = (_only_chunk(table.column(name)) for name in SCHEMA.names)
    return Sidecar(keys, offsets.to_numpy(), sizes.to_numpy(), words)


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A sample that could not be read, and why."""

    key: str
    fault: BadSample


Content = Sample | Unreadable


def parse_captions(value: object) -> tuple[str, ...]:
    """Return the captions in a value: a text, a list of texts, or None.

    Raises:
        BadSample: it is something else.
    """
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(caption, str) for caption in values):
        raise BadSample("caption is not text", repr(value)[:80])
    return tuple(values)


def count_words(captions: Sequence[str]) -> tuple[int, ...]:
    """Return the number of words of each caption."""
    return tuple(len(caption.split()) for caption in captions)
