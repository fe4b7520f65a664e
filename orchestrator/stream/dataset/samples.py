"""Reads samples of a data set by shard and row, by number or by key; shards are read concurrently."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import OBJECT_STORE_READERS, FileRange, read_ranges
from orchestrator.stream.dataset import webdataset
from orchestrator.stream.dataset.columns import Columns
from orchestrator.stream.dataset.index import DataSetError, Index
from orchestrator.stream.dataset.parquet import read_rows
from orchestrator.stream.dataset.sidecar import Content, Sidecar, read_sidecar
from orchestrator.stream.order.sample_order import Ids
from workloads.contract import KeyedRandom

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARDS_AT_ONCE = 32


class ShardRows(NamedTuple):
    """Rows of one shard."""

    shard: Location
    rows: Sequence[int]


def read_samples(folder: Location, index: Index, requests: Sequence[ShardRows]) -> list[list[Content]]:
    """Return the samples at some rows of some shards, in the order given.

    Raises:
        StorageError: the store is failing; nothing is known about the samples.
        DataSetError: a sidecar is damaged.
    """
    if index.format == "webdataset":
        return _read_tars(requests)
    columns = Columns(**index.columns)
    return _in_parallel(folder, lambda request: read_rows(folder, request.shard, request.rows, columns), requests)


@lru_cache(maxsize=1024)
def cached_sidecar(shard: Location) -> Sidecar:
    """Return the sidecar of a shard, cached."""
    return read_sidecar(shard)


def _read_tars(requests: Sequence[ShardRows]) -> list[list[Content]]:
    shards = [shard for shard, _ in requests]
    sidecars = _in_parallel(shards[0], cached_sidecar, shards) if shards else []
    ranges = [
        FileRange(shard, int(sidecar.offsets[row]), int(sidecar.offsets[row] + _size_to_read(sidecar, row)))
        for (shard, rows), sidecar in zip(requests, sidecars, strict=True)
        for row in rows
    ]
    contents = iter(read_ranges(ranges))
    return [
        [webdataset.parsed(sidecar.key(row), bytes(next(contents)), int(sidecar.sizes[row])) for row in rows]
        for (_, rows), sidecar in zip(requests, sidecars, strict=True)
    ]


def _size_to_read(sidecar: Sidecar, row: int) -> int:
    """Return the bytes of a sample; of one that is too large to be used, only as many as show that."""
    return min(int(sidecar.sizes[row]), webdataset.MAX_SAMPLE_BYTES)


def _in_parallel(location: Location, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map over items, concurrently when they are in an object store, whose latency dominates."""
    if location.is_local or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(OBJECT_STORE_READERS, len(items))) as pool:
        return list(pool.map(function, items))


@dataclass(frozen=True, slots=True)
class LocatedSample:
    """A sample with the name of its shard and its row there."""

    shard: str
    row: int
    content: Content


def evenly_spaced(total: int, limit: int | None = None) -> Ids:
    """Return evenly spaced numbers below `total`, ascending: at most `limit`, None for all."""
    count = total if limit is None else min(limit, total)
    return np.unique(np.linspace(0, total - 1, count).astype(np.int64))


def stratified_sample(total: int, count: int, seed: int) -> Ids:
    """Return at most `count` numbers below `total`, ascending: one random number from each of `count` equal strata.

    Args:
        total: numbers to choose from.
        count: how many; all of them when `total` is not larger.
        seed: of the random choice.
    """
    if count >= total:
        return np.arange(total, dtype=np.int64)
    edges = np.linspace(0, total, count + 1).astype(np.int64)
    return KeyedRandom((seed, "spread", total, count)).numpy().integers(edges[:-1], edges[1:])


def read_numbered(folder: Location, index: Index, numbers: Ids) -> Iterator[LocatedSample]:
    """Yield the samples of some ascending numbers, in that order; several shards are read at once.

    Raises:
        StorageError: the store is failing.
        DataSetError: a sidecar is damaged.
    """
    shards, rows = index.find(numbers)
    present = np.unique(shards).tolist()
    for start in range(0, len(present), SHARDS_AT_ONCE):
        group = present[start : start + SHARDS_AT_ONCE]
        requests = [ShardRows(folder / index.shards[shard], rows[shards == shard].tolist()) for shard in group]
        for request, contents in zip(requests, read_samples(folder, index, requests), strict=True):
            for row, content in zip(request.rows, contents, strict=True):
                yield LocatedSample(request.shard.name, row, content)


def find_keys(folder: Location, index: Index, keys: Sequence[str]) -> Ids:
    """Return the numbers of the samples with some keys, ascending; sidecars are read until all keys are found.

    Raises:
        DataSetError: no sample has one of the keys, or a sidecar is damaged.
        StorageError: the store is failing.
    """
    distinct = pa.array(sorted(set(keys)), pa.string())
    numbers: dict[str, int] = {}
    for shard, rows in _search(folder, index, distinct):
        for key, row in rows.items():
            numbers.setdefault(key, int(index.starts[shard]) + row)
        if len(numbers) == len(distinct):
            return np.array(sorted(numbers.values()), dtype=np.int64)
    missing = next(key for key in distinct.to_pylist() if key not in numbers)
    raise DataSetError(f"{folder.uri}: no sample has the key {missing!r}; keys must match exactly.")


def _search(folder: Location, index: Index, keys: pa.Array) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield each shard with the rows of the keys in it; several shards are read at once."""
    shards = range(len(index.shards))
    with ThreadPoolExecutor(OBJECT_STORE_READERS) as pool:
        for start in range(0, len(shards), SHARDS_AT_ONCE):
            group = shards[start : start + SHARDS_AT_ONCE]
            files = [folder / index.shards[shard] for shard in group]
            yield from zip(group, pool.map(partial(_rows, keys), files), strict=True)


def _rows(keys: pa.Array, shard: Location) -> dict[str, int]:
    """Return the first row of each key that a shard has."""
    rows = pc.index_in(keys, value_set=read_sidecar(shard).keys).to_pylist()
    return {key: row for key, row in zip(keys.to_pylist(), rows, strict=True) if row is not None}
