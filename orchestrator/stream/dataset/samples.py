"""Samples out of the shards of a data set, by shard and row; many shards are read at once."""

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
from orchestrator.stream.dataset.index import DataSetError, Index
from orchestrator.stream.dataset.parquet import Columns, read_rows
from orchestrator.stream.dataset.sidecar import Content, Sidecar, Unreadable, read_sidecar
from orchestrator.stream.order.sample_order import Ids
from workloads.contract import BadSample, KeyedRandom, Sample

Item = TypeVar("Item")
Result = TypeVar("Result")


class ShardRows(NamedTuple):
    """Rows of one shard."""

    shard: Location
    rows: Sequence[int]


def read_samples(folder: Location, index: Index, wanted: Sequence[ShardRows]) -> list[list[Content]]:
    """Return the samples at some rows of some shards, in the order asked for.

    Raises:
        StorageError: the store is failing; nothing is known about the samples.
        DataSetError: a sidecar is damaged.
    """
    if index.format == "webdataset":
        return _read_tars(wanted)
    columns = Columns(**index.columns)
    return _in_parallel(folder, lambda one: read_rows(folder, one.shard, one.rows, columns), wanted)


@lru_cache(maxsize=1024)
def cached_sidecar(shard: Location) -> Sidecar:
    """Return the sidecar of a shard; asking again is cheap."""
    return read_sidecar(shard)


def _read_tars(wanted: Sequence[ShardRows]) -> list[list[Content]]:
    places = [shard for shard, _ in wanted]
    sidecars = _in_parallel(places[0], cached_sidecar, places) if places else []
    ranges = [
        FileRange(shard, int(sidecar.offsets[row]), int(sidecar.offsets[row] + sidecar.sizes[row]))
        for (shard, rows), sidecar in zip(wanted, sidecars, strict=True)
        for row in rows
    ]
    contents = iter(zip(ranges, read_ranges(ranges), strict=True))
    return [
        [_parsed(sidecar.key(row), *next(contents)) for row in rows]
        for (_, rows), sidecar in zip(wanted, sidecars, strict=True)
    ]


def _parsed(key: str, place: FileRange, content: memoryview) -> Content:
    try:
        return webdataset.parse(key, bytes(content), place.stop - place.start)
    except BadSample as fault:
        return Unreadable(key, fault)


def _in_parallel(place: Location, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map over items, at once where waiting for an object store is what takes time."""
    if place.is_local or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(OBJECT_STORE_READERS, len(items))) as pool:
        return list(pool.map(function, items))


# Reading samples outside the training order, for evaluation.


def evenly_spaced_samples(folder: Location, index: Index, limit: int | None = None) -> Iterator[Sample]:
    """Yield samples spread evenly over a data set, in storage order; unreadable ones are left out.

    Args:
        folder: the data set.
        index: its index.
        limit: how many at most; None for all.
    """
    count = index.total if limit is None else min(limit, index.total)
    numbers = np.unique(np.linspace(0, index.total - 1, count).astype(np.int64))
    shards, rows = index.find(numbers)
    for shard in np.unique(shards):
        wanted = ShardRows(folder / index.shards[shard], rows[shards == shard].tolist())
        for content in read_samples(folder, index, [wanted])[0]:
            if not isinstance(content, Unreadable):
                yield content


# Chosen samples of a data set: spread evenly, or by key.


SHARDS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class LocatedSample:
    """A sample and where it lies: the shard's name, and the row in it."""

    shard: str
    row: int
    content: Content


def stratified_sample(total: int, count: int, seed: int) -> Ids:
    """Return at most `count` numbers below `total`: one from each of as many equal stretches, in ascending order.

    Args:
        total: samples to choose from.
        count: how many; all of them when there are no more.
        seed: of the choice within the stretches.
    """
    if count >= total:
        return np.arange(total, dtype=np.int64)
    edges = np.linspace(0, total, count + 1).astype(np.int64)
    return KeyedRandom((seed, "spread", total, count)).numpy().integers(edges[:-1], edges[1:])


def read_numbered(folder: Location, index: Index, numbers: Ids) -> Iterator[LocatedSample]:
    """Yield the samples of some ascending numbers, in that order; a few shards are read at once.

    Raises:
        StorageError: the store is failing.
        DataSetError: a sidecar is damaged.
    """
    shards, rows = index.find(numbers)
    present = np.unique(shards).tolist()
    for start in range(0, len(present), SHARDS_AT_ONCE):
        some = present[start : start + SHARDS_AT_ONCE]
        wanted = [ShardRows(folder / index.shards[shard], rows[shards == shard].tolist()) for shard in some]
        for one, contents in zip(wanted, read_samples(folder, index, wanted), strict=True):
            for row, content in zip(one.rows, contents, strict=True):
                yield LocatedSample(one.shard.name, row, content)


def find_keys(folder: Location, index: Index, keys: Sequence[str]) -> Ids:
    """Return the numbers of the samples with some keys, ascending; the sidecars are searched until all are found.

    Raises:
        DataSetError: no sample has one of the keys, or a sidecar is damaged.
        StorageError: the store is failing.
    """
    wanted = pa.array(sorted(set(keys)), pa.string())
    found: dict[str, int] = {}
    for shard, rows in _search(folder, index, wanted):
        for key, row in rows.items():
            found.setdefault(key, int(index.starts[shard]) + row)
        if len(found) == len(wanted):
            return np.array(sorted(found.values()), dtype=np.int64)
    missing = next(key for key in wanted.to_pylist() if key not in found)
    raise DataSetError(f"{folder.uri}: no sample has the key {missing!r}; keys are matched letter by letter.")


def _search(folder: Location, index: Index, wanted: pa.Array) -> Iterator[tuple[int, dict[str, int]]]:
    """Yield each shard with the rows of the wanted keys in it, a few shards being read at once."""
    shards = range(len(index.shards))
    with ThreadPoolExecutor(OBJECT_STORE_READERS) as pool:
        for start in range(0, len(shards), SHARDS_AT_ONCE):
            some = shards[start : start + SHARDS_AT_ONCE]
            places = [folder / index.shards[shard] for shard in some]
            yield from zip(some, pool.map(partial(_rows, wanted), places), strict=True)


def _rows(wanted: pa.Array, shard: Location) -> dict[str, int]:
    """Return the first row of each wanted key that a shard has."""
    rows = pc.index_in(wanted, value_set=read_sidecar(shard).keys).to_pylist()
    return {key: row for key, row in zip(wanted.to_pylist(), rows, strict=True) if row is not None}
