"""A first look at a source: how many items it has, and which images it names more than once."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from orchestrator.stream.building.annotations import Item, Source

HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of a source before its files are read.

    Args:
        items: how many it has.
        repeats: items whose key an earlier item has, as when an image is listed once for each of its captions.
        repeated: hashes of the keys that more than one item has.
    """

    items: int
    repeats: int
    repeated: frozenset[int]


@dataclass(frozen=True, slots=True)
class Keyed:
    """An item with its number in the source and a key that no other item has."""

    number: int
    key: str
    item: Item


def survey(source: Source) -> Survey:
    """Go through a source once; that takes 8 bytes of memory an item."""
    hashes = array("Q", (_hash(item.key) for item in source.items()))
    values, counts = np.unique(np.frombuffer(hashes, np.uint64), return_counts=True)
    return Survey(len(hashes), len(hashes) - len(values), frozenset(values[counts > 1].tolist()))


def keyed(source: Source, looked_at: Survey) -> Iterator[Keyed]:
    """Yield the items with unique keys: the second item of an image gets its key with #2 behind it, and so on."""
    seen: Counter[int] = Counter()
    for number, item in enumerate(source.items()):
        key = item.key
        if looked_at.repeated and (hashed := _hash(key)) in looked_at.repeated:
            seen[hashed] += 1
            key = f"{key}#{seen[hashed]}" if seen[hashed] > 1 else key
        yield Keyed(number, key, item)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest(), "little")
