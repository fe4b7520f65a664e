"""Chosen samples of a data set: spread evenly, or by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import OBJECT_STORE_READERS
from orchestrator.stream.data_set.content import Content
from orchestrator.stream.data_set.index import DataSetError, Index
from orchestrator.stream.data_set.samples import Rows, read_samples
from orchestrator.stream.data_set.sidecar import read_sidecar
from orchestrator.stream.order.permutation import Ids
from workloads.contract import KeyedRandom

SHARDS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Chosen:
    """A sample and where it lies: the shard's name, and the row in it."""

    shard: str
    row: int
    content: Content


def spread(total: int, count: int, seed: int) -> Ids:
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


def read_chosen(folder: Location, index: Index, numbers: Ids) -> Iterator[Chosen]:
    """Yield the samples of some ascending numbers, in that order; a few shards are read at once.

    Raises:
        StorageError: the store is failing.
        DataSetError: a sidecar is damaged.
    """
    shards, rows = index.find(numbers)
    present = np.unique(shards).tolist()
    for start in range(0, len(present), SHARDS_AT_ONCE):
        some = present[start : start + SHARDS_AT_ONCE]
        wanted = [Rows(folder / index.shards[shard], rows[shards == shard].tolist()) for shard in some]
        for one, contents in zip(wanted, read_samples(folder, index, wanted), strict=True):
            for row, content in zip(one.rows, contents, strict=True):
                yield Chosen(one.shard.name, row, content)


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
