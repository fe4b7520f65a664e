"""Samples out of the shards of a data set, by shard and row; many shards are read at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import OBJECT_STORE_READERS, FileRange, read_ranges
from orchestrator.stream.data_set import tar
from orchestrator.stream.data_set.content import Content, Unreadable
from orchestrator.stream.data_set.index import Index
from orchestrator.stream.data_set.parquet import Columns, read_rows
from orchestrator.stream.data_set.sidecar import Sidecar, read_sidecar
from workloads.contract import BadSample

Item = TypeVar("Item")
Result = TypeVar("Result")


class Rows(NamedTuple):
    """Rows of one shard."""

    shard: Location
    rows: Sequence[int]


def read_samples(folder: Location, index: Index, wanted: Sequence[Rows]) -> list[list[Content]]:
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


def _read_tars(wanted: Sequence[Rows]) -> list[list[Content]]:
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
        return tar.parse(key, bytes(content), place.stop - place.start)
    except BadSample as fault:
        return Unreadable(key, fault)


def _in_parallel(place: Location, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map over items, at once where waiting for an object store is what takes time."""
    if place.is_local or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(OBJECT_STORE_READERS, len(items))) as pool:
        return list(pool.map(function, items))
