"""The index of a data set: its shards with their number of samples, size and digest, in `index.parquet`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchestrator.config.commands import command_line
from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import FileRange, read_ranges
from orchestrator.storage.retry import StorageError, retrying
from orchestrator.stream.dataset.shard_folder import in_data_set, index_location, is_bookkeeping, why_missing
from orchestrator.stream.order.sample_order import Ids

VERSION = 2
DIGEST_BYTES = 16

ShardFormat = Literal["webdataset", "parquet"]

MARK = "fuseray_index"
"""The key of an index's metadata with its version; no other program writes it."""

BLOCK_BYTES = 4 * 1024 * 1024
PART_BYTES = 8 * 1024 * 1024

PARTS_AT_ONCE = 4
"""`drain` reads so many parts concurrently."""


class DataSetError(FuserayError):
    """A data set or its index is missing, unreadable, or another one than expected."""


class ShardNames(Sequence[str]):
    """Shard names in one Arrow buffer: a million of them take some ten megabytes."""

    def __init__(self, names: Iterable[str] | pa.Array) -> None:
        self.array = names if isinstance(names, pa.Array) else pa.array(list(names), pa.string())

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> ShardNames: ...
    def __getitem__(self, at: int | slice) -> str | ShardNames:
        """Return a name, or the names of a slice."""
        if isinstance(at, slice):
            return ShardNames(self.array[at])
        return str(self.array[int(at)].as_py())

    def __len__(self) -> int:
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShardNames) and bool(self.array.equals(other.array))

    def __hash__(self) -> int:
        return hash(len(self))


@dataclass(frozen=True, eq=False)
class Index:
    """The shards of a data set in a fixed order.

    Args:
        shards: file names, in the folder of the index.
        samples: samples in each shard, int64[shards].
        bytes: size of each shard file, int64[shards].
        digests: BLAKE2b digest of each shard file, uint8[shards, DIGEST_BYTES].
        format: the format of the shards.
        columns: for Parquet shards, the column of each role (see `parquet.Columns`).
    """

    shards: ShardNames
    samples: NDArray[np.int64]
    bytes: NDArray[np.int64]
    digests: NDArray[np.uint8]
    format: ShardFormat
    columns: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Number of the first sample of each shard, and the total as the last element, int64[shards + 1]."""
        return np.concatenate([[0], np.cumsum(self.samples)]).astype(np.int64)

    @property
    def total(self) -> int:
        """Samples in the data set."""
        return int(self.starts[-1])

    @cached_property
    def digest(self) -> str:
        """A digest of the whole index: equal digests mean equal samples in equal order."""
        content = hashlib.blake2b(f"{VERSION} {self.format} {sorted(self.columns.items())}".encode(), digest_size=16)
        for start in range(0, len(self.shards), 10_000):
            content.update("\n".join(self.shards[start : start + 10_000].array.to_pylist()).encode() + b"\n")
        for column in (self.samples.astype("<i8"), self.bytes.astype("<i8"), self.digests):
            content.update(np.ascontiguousarray(column).data)
        return content.hexdigest()

    def find(self, numbers: Ids) -> tuple[Ids, Ids]:
        """Return the shard of each sample number and its row in that shard, int64[n] each."""
        shards = np.searchsorted(self.starts, numbers, side="right") - 1
        return shards.astype(np.int64), numbers - self.starts[shards]


def write_index(folder: Location, index: Index) -> None:
    """Write the index of a data set; write it last, so that a data set with an index is complete.

    Raises:
        DataSetError: another program's file has the index's name.
        StorageError: it cannot be written.
    """
    check_replaceable(folder)
    digests = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(DIGEST_BYTES), len(index.shards), [None, pa.py_buffer(np.ascontiguousarray(index.digests))]
    )
    table = pa.table({"shard": index.shards.array, "samples": index.samples, "bytes": index.bytes, "digest": digests})
    metadata = {MARK: str(VERSION), "format": index.format, "columns": json.dumps(dict(index.columns))}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    index_location(folder).write(sink.getvalue().to_pybytes())


def check_replaceable(folder: Location) -> None:
    """Check that writing a data set's index overwrites nothing but an older index.

    Raises:
        DataSetError: another program's file has the index's name.
        StorageError: it cannot be read.
    """
    location = index_location(folder)
    if location.size() is not None and not retrying(lambda: _is_index(location), location.uri, "read"):
        raise DataSetError(_foreign(location))


def _is_index(location: Location) -> bool:
    with location.single_attempt_filesystem.open_input_file(location.path) as file:
        try:
            return MARK.encode() in (pq.read_schema(file).metadata or {})
        except pa.ArrowInvalid:
            return False


def _foreign(location: Location) -> str:
    return (
        f"{location.uri}: is not an index of shards, and nothing is written over it; rename it, or move it out of "
        "the folder, and then index the shards."
    )


def read_index(folder: Location) -> Index:
    """Read the index of a data set.

    Raises:
        DataSetError: there is no data, no index, or the index is damaged or empty.
    """
    location = index_location(folder)
    if location.size() is None:
        raise DataSetError(_why_no_index(folder))
    try:
        table = pq.read_table(pa.BufferReader(location.read()))
    except (OSError, pa.ArrowException) as error:
        raise DataSetError(
            f"{location.uri}: is not a readable index ({error}); if it is a file of yours, rename it, else remove it; "
            f"then {_how_to_reindex(folder)}"
        ) from error
    metadata = {key.decode(): value.decode("utf-8", "replace") for key, value in (table.schema.metadata or {}).items()}
    if MARK not in metadata:
        raise DataSetError(_foreign(location))
    if metadata[MARK] != str(VERSION):
        raise DataSetError(
            f"{location.uri}: index version {metadata[MARK]} is not {VERSION}; {_how_to_reindex(folder)}"
        )
    try:
        index = _index(table, metadata)
    except (ValueError, pa.ArrowException, KeyError) as error:
        raise DataSetError(f"{location.uri}: is not a readable index ({error}); {_how_to_reindex(folder)}") from error
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
            f"put them back, or {_how_to_reindex(folder)}"
        )
    grown = [name for name, size in zip(index.shards, index.bytes, strict=True) if sizes[name] > size]
    if grown:
        raise DataSetError(f"{folder.uri}: {grown[0]} has grown since it was indexed; {_how_to_reindex(folder)}")
    return [name for name, size in zip(index.shards, index.bytes, strict=True) if sizes[name] < size]


def _index(table: pa.Table, metadata: dict[str, str]) -> Index:
    digests = table.column("digest").combine_chunks()
    start = digests.offset * DIGEST_BYTES
    return Index(
        shards=ShardNames(table.column("shard").combine_chunks()),
        samples=table.column("samples").to_numpy(),
        bytes=table.column("bytes").to_numpy(),
        digests=np.frombuffer(digests.buffers()[1], np.uint8)[start : start + table.num_rows * DIGEST_BYTES].reshape(
            -1, DIGEST_BYTES
        ),
        format=_format(metadata),
        columns=json.loads(metadata["columns"]),
    )


def _format(metadata: dict[str, str]) -> ShardFormat:
    shard_format = metadata.get("format")
    if shard_format == "webdataset":
        return "webdataset"
    if shard_format == "parquet":
        return "parquet"
    raise DataSetError(f"unknown shard format {shard_format!r}; known: webdataset, parquet.")


def _why_no_index(folder: Location) -> str:
    if missing := why_missing(folder):
        return f"{missing} Check data.train and data.held_out, or build shards: `fuseray data emoji DEST`."
    names = [name for name in folder.sizes() if in_data_set(folder, name) and shard_format_of(name)]
    if names:
        return f"{folder.uri}: has {len(names)} shards but no {index_location(folder).name}; {_how_to_reindex(folder)}"
    return f"{folder.uri}: has no .tar or .parquet shards; build some, for example with `fuseray data emoji DEST`."


def _how_to_reindex(folder: Location) -> str:
    return f"make the index again with `{command_line('shards', 'index', folder.uri, endpoint=folder.endpoint)}`."


def shard_format_of(name: str) -> ShardFormat | None:
    """Return the format of a shard by its file name, in whatever case its suffix is; None for other files."""
    if name.startswith(".") or is_bookkeeping(name):
        return None
    suffix = name.rpartition(".")[2].lower()
    return {"tar": "webdataset", "parquet": "parquet"}.get(suffix)  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """The entry of one shard in an index.

    Args:
        shard: its file name.
        samples: number of its samples.
        bytes: size of the file.
        digest: BLAKE2b digest of the file, in hexadecimal.
    """

    shard: str
    samples: int
    bytes: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return asdict(self)


def build_index(facts: Iterable[ShardFacts], shard_format: ShardFormat, columns: Mapping[str, str]) -> Index:
    """Build an index from the entries of its shards, in that order."""
    shards = tuple(facts)
    digests = b"".join(bytes.fromhex(shard.digest) for shard in shards)
    return Index(
        ShardNames(shard.shard for shard in shards),
        np.array([shard.samples for shard in shards], np.int64),
        np.array([shard.bytes for shard in shards], np.int64),
        np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
        shard_format,
        columns,
    )


def shard_digest(content: bytes) -> str:
    """Return the digest of a shard, in hexadecimal."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


class ByteStream(Protocol):
    """A stream that is read once, from beginning to end."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        ...


class HashingReader:
    """A stored file as a stream that hashes what it reads; it fetches large blocks and retries failed requests.

    Args:
        file: the file.

    Raises:
        StorageError: there is no such file.
    """

    def __init__(self, file: Location) -> None:
        size = file.size()
        if size is None:
            raise StorageError(f"{file.uri}: cannot be read: it does not exist.")
        self.size = size
        self._file = file
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._fetched = 0
        self._block = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end.

        Raises:
            StorageError: the store is failing, or the file was cut short in the meantime.
        """
        if not self._block:
            (self._block,) = self._next_blocks(1, BLOCK_BYTES)
        content, self._block = self._block[:size], self._block[size:]
        return bytes(content)

    def drain(self, copy: Path | None = None) -> None:
        """Read the rest of the file, and copy it to a local file if one is given.

        Raises:
            StorageError: the store is failing, the file was cut short in the meantime, or the copy cannot be written.
        """
        try:
            with copy.open("wb") if copy else nullcontext() as target:
                while self._fetched < self.size:
                    for block in self._next_blocks(PARTS_AT_ONCE, PART_BYTES):
                        if target:
                            target.write(block)
        except OSError as error:
            raise StorageError(
                f"{self._file.uri}: cannot be copied to {copy} ({error.strerror}); name a larger disk in TMPDIR."
            ) from error

    def _next_blocks(self, count: int, size: int) -> list[memoryview]:
        start, stop = self._fetched, min(self._fetched + count * size, self.size)
        starts = range(start, stop, size) or [start]
        blocks = read_ranges([FileRange(self._file, at, min(at + size, stop)) for at in starts])
        if sum(map(len, blocks)) < stop - start:
            raise StorageError(f"{self._file.uri}: changed while it was read; begin again when nothing writes to it.")
        self._fetched = stop
        for block in blocks:
            self._digest.update(block)
        return blocks

    def digest(self) -> str:
        """Return the digest of what was read, in hexadecimal: all of it after `drain`, or at the end of `read`."""
        return self._digest.hexdigest()


def file_digest(file: Location) -> str:
    """Return the digest of a file, in hexadecimal.

    Raises:
        StorageError: it is missing, or the store is failing.
    """
    reader = HashingReader(file)
    reader.drain()
    return reader.digest()
