"""Keys that a data set has more than once, found in bounded memory: hashes are spilled to disk and sorted in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.storage.location import Location
from orchestrator.stream.checking.verification import Finding
from orchestrator.stream.data_set.index import Index
from orchestrator.stream.data_set.sidecar import read_sidecar
from orchestrator.stream.order.permutation import Ids

BUCKET_SAMPLES = 4_000_000
"""Samples whose hashes are sorted at once, about: a quarter of a gigabyte."""

HASH_BYTES = 16
"""With 128 bits, two keys out of 1e9 have the same hash with a probability of 1e-21."""

RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<i8")])

Keys = tuple[int, pa.Array]
"""Number of a shard in the index, and the keys of its samples in order."""


def duplicates(folder: Location, index: Index, keys: Iterable[Keys], scratch: Path) -> Iterator[Finding]:
    """Find samples whose key an earlier sample of the data set has.

    Args:
        folder: the data set.
        index: its index.
        keys: of the shards that can be looked at, each as long as the index says.
        scratch: an empty folder for the hashes, 24 bytes a sample.

    Raises:
        StorageError: the sidecar of a shard with duplicates cannot be read again.
    """
    buckets = -(-index.total // BUCKET_SAMPLES)
    _spill(index, keys, scratch, buckets)
    for bucket in range(buckets):
        path = scratch / str(bucket)
        if path.exists():
            yield from _findings(folder, index, repeated(np.fromfile(path, RECORD)))


def repeated(records: NDArray[np.void]) -> dict[int, int]:
    """Return the number of every sample whose hash a sample of a lower number has, and the lowest such number."""
    order = np.lexsort((records["number"], records["low"], records["high"]))
    high, low, number = (records[name][order] for name in ("high", "low", "number"))
    is_first = np.ones(len(records), dtype=bool)
    is_first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    first = number[is_first][np.cumsum(is_first) - 1]
    return dict(sorted(zip(number[~is_first].tolist(), first[~is_first].tolist(), strict=True)))


def records(keys: pa.Array, numbers: Ids) -> NDArray[np.void]:
    """Return the hashes of keys beside the numbers of their samples."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest() for key in keys.to_pylist())
    halves = np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
    found = np.empty(len(keys), RECORD)
    found["high"], found["low"], found["number"] = halves[:, 0], halves[:, 1], numbers
    return found


def _spill(index: Index, keys: Iterable[Keys], scratch: Path, buckets: int) -> None:
    for shard, of_shard in keys:
        found = records(of_shard, np.arange(index.starts[shard], index.starts[shard + 1]))
        bucket_of = found["high"] % buckets
        for bucket in np.unique(bucket_of):
            with (scratch / str(bucket)).open("ab") as file:
                file.write(found[bucket_of == bucket].tobytes())


def _findings(folder: Location, index: Index, first_of: Mapping[int, int]) -> Iterator[Finding]:
    numbers = np.array(list(first_of), dtype=np.int64)
    shards, rows = index.find(numbers)
    first_shards, first_rows = index.find(np.array(list(first_of.values()), dtype=np.int64))
    for shard in np.unique(shards).tolist():
        name = index.shards[shard]
        sidecar = read_sidecar(folder / name)
        for place in np.flatnonzero(shards == shard).tolist():
            detail = f"row {rows[place]}; first in {index.shards[first_shards[place]]}, row {first_rows[place]}"
            yield Finding(name, sidecar.key(int(rows[place])), "key is a duplicate", detail)
