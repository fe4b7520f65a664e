"""The sidecar of a shard: a small Parquet file with the key, extent and caption lengths of each sample.

Also `Content`, a stored sample or why it could not be read, and the parsing of captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.dataset.shard_folder import SIDECAR_SUFFIX
from workloads.contract import BadSample, Sample

SUFFIX = SIDECAR_SUFFIX
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

    @classmethod
    def of(cls, content: Content, offset: int, size: int) -> SidecarEntry:
        """Return the entry of a sample as it was read."""
        captions = () if isinstance(content, Unreadable) else content.captions
        return cls(content.key, offset, size, count_words(captions))


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


def check_sidecar(shard: Location) -> None:
    """Check that what stands where a shard's sidecar will be written may be overwritten: a sidecar, or its ruins.

    Raises:
        DataSetError: it is another program's file.
        StorageError: it cannot be read.
    """
    location = sidecar_location(shard)
    if location.size() is None:
        return
    try:
        schema = pq.read_schema(pa.BufferReader(location.read()))
    except (OSError, pa.ArrowException):
        return
    if schema.names != SCHEMA.names:
        raise DataSetError(
            f"{location.uri}: is not a sidecar of {shard.name}, which would overwrite it; rename it, or move it "
            "out of the folder."
        )


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
    """Return the captions in a value: a text, a list of texts, or None; None in a list is no caption.

    Raises:
        BadSample: it is something else.
    """
    values = value if isinstance(value, list) else [value]
    captions = tuple(caption for caption in values if isinstance(caption, str))
    if len(captions) < sum(caption is not None for caption in values):
        raise BadSample("caption is not text", repr(value)[:80])
    return captions


def join_captions(*sources: Iterable[str]) -> tuple[str, ...]:
    """Return the captions of a sample from all places where it has some.

    What a later place repeats is dropped. Captions that are alike in one place all stay, since published retrieval
    results count each of them.
    """
    joined: list[str] = []
    for captions in sources:
        before = frozenset(joined)
        joined += [caption for caption in captions if caption not in before]
    return tuple(joined)


def count_words(captions: Sequence[str]) -> tuple[int, ...]:
    """Return the number of words of each caption."""
    return tuple(len(caption.split()) for caption in captions)
