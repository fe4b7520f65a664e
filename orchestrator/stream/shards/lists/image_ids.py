"""The image ids of a list, checked: of one kind, one image each, and no two with the same number.

Samples of one image are told by its id (`image_number` of the contract), so an id of two images would make captions of
one true of the other.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.shards.sources import Item
from workloads.contract import IMAGE_ID_NAMES, BadSample, declared_image_id, image_number

HASH_BYTES = 8
AMBIGUOUS = "image id is ambiguous"


def with_ids_of_one_kind(items: Iterable[Item], name: str) -> Iterator[Item]:
    """Yield the items of a file, whose image ids must be all numbers or all texts.

    Args:
        items: of the file.
        name: of the file, for messages.

    Raises:
        DataSetError: they are not.
    """
    first: tuple[str, str] | None = None
    for number, item in enumerate(items):
        value = next((item.record[name] for name in IMAGE_ID_NAMES if item.record.get(name) is not None), None)
        if value is not None:
            kind = "text" if isinstance(value, str) else "number"
            place = f"item {number} ({item.image}) has {value!r}"
            first = first or (kind, place)
            if kind != first[0]:
                raise DataSetError(
                    f"{name}: image ids are of two kinds: {first[1]}, a {first[0]}, and {place}, a {kind}; write all "
                    "of them as numbers, or all as texts."
                )
        yield item


@dataclass(slots=True)
class ImageIds:
    """The ids of the images in a list, 24 bytes of memory for each item that has one."""

    _numbers: array[int] = field(default_factory=lambda: array("Q"))
    _ids: array[int] = field(default_factory=lambda: array("Q"))
    _images: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, item: Item) -> None:
        """Add an item; one that is unusable or has no id does not count."""
        if item.fault is None and (identity := _identity(item)):
            self._numbers.append(image_number(item.key, item.record))
            self._ids.append(_hash(identity))
            self._images.append(_hash(item.key))

    def ambiguous(self, name: str) -> frozenset[int]:
        """Return the numbers of the ids that several images have.

        Args:
            name: of the list, for messages.

        Raises:
            DataSetError: two different ids have the same number.
        """
        numbers, ids, images = (np.frombuffer(column, np.uint64) for column in (self._numbers, self._ids, self._images))
        if len(shared_values(numbers, ids)):
            raise DataSetError(
                f"{name}: two of its image ids have the same 63-bit number by chance, so their images could not be "
                "told apart; add a prefix to all image ids."
            )
        return frozenset(shared_values(numbers, images).tolist())


def shared_values(values: NDArray[np.uint64], owners: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the values that occur with more than one owner, ascending; both are [N]."""
    order = np.lexsort((owners, values))
    values, owners = values[order], owners[order]
    return np.unique(values[1:][(values[1:] == values[:-1]) & (owners[1:] != owners[:-1])])


class AmbiguousIds:
    """Marks the items whose image id several images have.

    Args:
        numbers: of these ids.
    """

    def __init__(self, numbers: frozenset[int]) -> None:
        self._numbers = numbers
        self._first: dict[int, Item] = {}

    def judged(self, item: Item) -> Item:
        """Return an item, unusable if its id is one of these."""
        if not self._numbers or item.fault or not (identity := _identity(item)):
            return item
        number = image_number(item.key, item.record)
        if number not in self._numbers:
            return item
        first = self._first.setdefault(number, item)
        other = "another image" if first.key == item.key else first.image
        image_id = identity.rpartition("\0")[2]
        detail = f"{image_id!r} is the id of {other} too; give each image an id of its own"
        return replace(item, fault=BadSample(AMBIGUOUS, detail))


def _identity(item: Item) -> str:
    """Return an item's image id with its data set; empty when there is none, or it is no id, as its loading says."""
    try:
        image_id = declared_image_id(item.record)
    except BadSample:
        return ""
    return image_id and f"{item.record.get('dataset', '')}\0{image_id}"


def _hash(text: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=HASH_BYTES).digest(), "little"
    )
