"""What is taken of a list of images: one of its splits, and what becomes a sample."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.dataset.sidecar import join_captions, parse_captions
from orchestrator.stream.shards.lists.json_text import json_fault
from orchestrator.stream.shards.sources import Item, Source
from workloads.contract import IMAGE_ID_NAMES, BadSample, declared_image_id

TRAIN, RESTVAL = "train", "restval"
"""COCO's splits by Karpathy: the field trains on the rest of the validation images as well."""

SPLITS_SHOWN = 12

SampleUnit = Literal["entry", "image", "caption"]


@dataclass(frozen=True, slots=True)
class SplitChoice:
    """Which split of a list is taken.

    Args:
        name: of the split; empty for all entries, of lists that are not split.
        restval: whether `train` brings `restval` along.
    """

    name: str = ""
    restval: bool = True

    @property
    def taken(self) -> tuple[str, ...]:
        """The names that entries of the split have."""
        if not self.name:
            return ()
        return (TRAIN, RESTVAL) if self.name == TRAIN and self.restval else (self.name,)


ALL = SplitChoice()
"""All entries of a list."""


def check_is_chosen(choice: SplitChoice, splits: Iterable[object], name: str) -> None:
    """Check that a split is chosen of a file that has several.

    Args:
        choice: the choice.
        splits: the split of each of the file's entries.
        name: of the file, for messages.

    Raises:
        DataSetError: it is not.
    """
    counts = Counter(split for split in splits if isinstance(split, str))
    if not choice.name and len(counts) > 1:
        raise DataSetError(f"{name}: has the splits {_shown(counts)}; choose one with --split.")


def of_split(items: Iterable[Item], choice: SplitChoice, name: str) -> Iterator[Item]:
    """Yield the items of the split that is chosen, and those that are known to be unusable and name none.

    Args:
        items: of a file.
        choice: the split.
        name: of the file, for messages.

    Raises:
        DataSetError: an item names no split, or none names this one.
    """
    if not choice.name:
        yield from items
        return
    counts: Counter[str] = Counter()
    for number, item in enumerate(items):
        split = item.record.get("split")
        if isinstance(split, str):
            counts[split] += 1
        elif item.fault is None:
            raise DataSetError(
                f'{name}: item {number} ({item.image or "no image"}) has no text "split"; leave --split out for a file '
                "of one split, or add it."
            )
        if split in choice.taken or (item.fault and split is None):
            yield item
    if not any(counts[taken] for taken in choice.taken):
        raise DataSetError(f"{name}: has no split {choice.name!r}; it has {_shown(counts) or 'none'}. Change --split.")


def _shown(counts: Counter[str]) -> str:
    shown = ", ".join(f"{split} ({count})" for split, count in counts.most_common(SPLITS_SHOWN))
    return shown + (" ..." if len(counts) > SPLITS_SHOWN else "")


def with_samples_per(source: Source, unit: SampleUnit) -> Source:
    """Return a source whose items are what becomes a sample: entries as they are, images, or captions."""
    if unit == "entry":
        return source
    return PerImage(source) if unit == "image" else PerCaption(source)


@dataclass(frozen=True, slots=True)
class PerImage:
    """A `Source` with one item for each image: the entries that name it, with all their captions in the list's order.

    Of the other values those stay that the entries have in common. It holds the captions of the whole list in memory.

    Args:
        source: entries with their captions in the record, of which several may name an image.
    """

    source: Source

    @property
    def name(self) -> str:
        """The name of the list."""
        return self.source.name

    def digest(self) -> str:
        """Return a digest of the list and of the unit."""
        return _digest("image", self.source)

    def items(self) -> Iterator[Item]:
        """Yield the items, in the order in which the list first names their images.

        Raises:
            DataSetError: the list is malformed.
            StorageError: it cannot be read.
        """
        groups: dict[str | int, _Group] = {}
        for number, item in enumerate(self.source.items()):
            try:
                captions, image_id = _captions_of(item), declared_image_id(item.record)
            except BadSample as fault:
                groups[number] = _Group(replace(item, fault=fault))
                continue
            group = groups.setdefault(item.image or number, _Group(item, common=dict(item.record)))
            group.add(item, captions, image_id)
        yield from (group.item() for group in groups.values())

    def left_out(self) -> dict[str, int]:
        """Return what the list leaves out."""
        return self.source.left_out()

    def locate(self, path: str) -> Location:
        """Return the location of an image."""
        return self.source.locate(path)


@dataclass(slots=True)
class _Group:
    """The entries that name one image; one that cannot be used is alone."""

    first: Item
    captions: list[str] = field(default_factory=list)
    common: dict[str, Any] = field(default_factory=dict)
    image_ids: set[str] = field(default_factory=set)

    def add(self, item: Item, captions: Iterable[str], image_id: str) -> None:
        """Add an entry; of its other values those stay that all entries of the image share."""
        self.captions += captions
        self.image_ids.add(image_id)
        record = item.record
        self.common = {
            name: value
            for name, value in self.common.items()
            if name in IMAGE_ID_NAMES or (name in record and record[name] == value)
        }

    def item(self) -> Item:
        if self.first.fault:
            return self.first
        if len(self.image_ids) > 1:
            several = " and ".join(repr(image_id) if image_id else "none" for image_id in sorted(self.image_ids)[:2])
            detail = f"entries of this image have the ids {several}; give all of them the same"
            return replace(self.first, fault=BadSample("image id is ambiguous", detail))
        return replace(self.first, record=_with_captions(self.common, self.captions))


@dataclass(frozen=True, slots=True)
class PerCaption:
    """A `Source` with one item for each caption: the first captions of all entries, then all second ones, and so on.

    So captions of one image stand far apart and do not meet in a window of the shuffle. It holds the captions of the
    whole list in memory.

    Args:
        source: entries with their captions in the record.
    """

    source: Source

    @property
    def name(self) -> str:
        """The name of the list."""
        return self.source.name

    def digest(self) -> str:
        """Return a digest of the list and of the unit."""
        return _digest("caption", self.source)

    def items(self) -> Iterator[Item]:
        """Yield the items.

        Raises:
            DataSetError: the list is malformed.
            StorageError: it cannot be read.
        """
        rounds: list[list[Item]] = [[]]
        for item in self.source.items():
            try:
                captions = _captions_of(item)
            except BadSample as fault:
                rounds[0].append(replace(item, fault=fault))
                continue
            rounds += [[] for _ in range(len(captions) - len(rounds))]
            of_captions = [replace(item, record=_with_captions(item.record, [caption])) for caption in captions]
            for among, of_caption in zip(rounds, of_captions or [item], strict=False):
                among.append(of_caption)
        yield from chain.from_iterable(rounds)

    def left_out(self) -> dict[str, int]:
        """Return what the list leaves out."""
        return self.source.left_out()

    def locate(self, path: str) -> Location:
        """Return the location of an image."""
        return self.source.locate(path)


def _digest(unit: SampleUnit, source: Source) -> str:
    return hashlib.blake2b(f"{unit} {source.digest()}".encode(), digest_size=16).hexdigest()


def _captions_of(item: Item) -> tuple[str, ...]:
    """Return the captions of an item that have a word.

    Raises:
        BadSample: the item cannot be used.
    """
    if fault := item.fault or json_fault(item.record):
        raise fault
    places = [parse_captions(item.record.get(name)) for name in ("captions", "caption")]
    return tuple(caption for caption in join_captions(*places) if caption.strip())


def _with_captions(record: Mapping[str, Any], captions: Iterable[str]) -> dict[str, Any]:
    others = {name: value for name, value in record.items() if name not in ("captions", "caption")}
    return {**others, "captions": list(captions)}
