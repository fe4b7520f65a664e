"""The index of a data set: which shards it has and how many samples are in each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.config.errors import FuserayError
from orchestrator.stream.order.permutation import Ids

VERSION = 2
DIGEST_BYTES = 16

ShardFormat = Literal["webdataset", "parquet"]


class DataSetError(FuserayError):
    """A data set or its index is missing, unreadable or not what was expected."""


class Names(Sequence[str]):
    """Shard names, held as one buffer of text: a million of them take some ten megabytes."""

    def __init__(self, names: Iterable[str] | pa.Array) -> None:
        self.array = names if isinstance(names, pa.Array) else pa.array(list(names), pa.string())

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Names: ...
    def __getitem__(self, place: int | slice) -> str | Names:
        """Return a name, or the names of a slice."""
        if isinstance(place, slice):
            return Names(self.array[place])
        return str(self.array[int(place)].as_py())

    def __len__(self) -> int:
        return len(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names) and bool(self.array.equals(other.array))

    def __hash__(self) -> int:
        return hash(len(self))


@dataclass(frozen=True, eq=False)
class Index:
    """The shards of a data set in a fixed order.

    Args:
        shards: file names beside the index.
        samples: samples in each shard, int64[shards].
        bytes: size of each shard file, int64[shards].
        digests: BLAKE2b digest of each shard file, uint8[shards, DIGEST_BYTES].
        format: how the shards are written.
        columns: for Parquet shards, which column holds what (see `parquet.Columns`).
    """

    shards: Names
    samples: NDArray[np.int64]
    bytes: NDArray[np.int64]
    digests: NDArray[np.uint8]
    format: ShardFormat
    columns: Mapping[str, str] = field(default_factory=dict)

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
        """A digest of everything the index says: equal digests give equal samples in equal orders."""
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
