"""Loads the samples of a source and checks them, and gives its items unique keys."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.images import read_header
from orchestrator.stream.dataset.judgement import (
    DETAIL_LENGTH,
    FAULTS_OF_PATHS,
    check_address,
    check_captions,
    parse_fields,
)
from orchestrator.stream.dataset.sidecar import join_captions, parse_captions
from orchestrator.stream.shards.lists.image_ids import AmbiguousIds, ImageIds
from orchestrator.stream.shards.lists.json_text import json_fault
from orchestrator.stream.shards.sources import Item, Source
from workloads.contract import BadSample, Sample, declared_image_id

MAX_IMAGE_BYTES = 64 * 1024 * 1024
MAX_CAPTION_BYTES = 1024 * 1024

HASH_BYTES = 8
NAMES_SHOWN = 6


def load_sample(source: Source, item: Item, key: str) -> Sample:
    """Read the files of an item and check them; the image's bytes are unchanged.

    Args:
        source: of the item.
        item: the item.
        key: the sample's key.

    Raises:
        BadSample: a file is missing, too large or not an image, or there is no caption.
        StorageError: the store is failing; nothing is known about the sample.
    """
    if fault := item.fault or json_fault(item.record):
        raise fault
    fields = dict(item.record)
    places = _pop_captions(fields)
    for path in item.caption_files:
        content = _content(_located(source, path), "caption", MAX_CAPTION_BYTES)
        places += _parse_caption_file(path, content, fields)
    check_captions([caption for captions in places for caption in captions], "the item names none")
    declared_image_id(fields)
    image = _image(source, item)
    read_header(image)
    return Sample(key, image, join_captions(*map(_stripped, places)), fields)


def _stripped(captions: Sequence[str]) -> list[str]:
    """Return the captions that have a word, without space around them."""
    return [stripped for caption in captions if (stripped := caption.strip())]


def _pop_captions(fields: dict[str, Any]) -> list[tuple[str, ...]]:
    """Remove the captions from an object and return them by name; a name without a value has none."""
    return [parse_captions(fields.pop(name, None)) for name in ("captions", "caption")]


def _parse_caption_file(path: str, content: bytes, fields: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the captions in a .txt or .json file; the other values of the latter become fields."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("caption is not UTF-8", str(error)) from error
    if path.lower().endswith(".txt"):
        return [(text,)]
    value = parse_fields(text)
    captions = _pop_captions(value)
    fields.update(value)
    return captions


def _image(source: Source, item: Item) -> bytes:
    if not item.image and item.caption_files:
        raise BadSample("image is missing", f"none is beside {item.caption_files[0]}")
    if not item.image:
        names = ", ".join(map(repr, list(item.record)[:NAMES_SHOWN]))
        raise BadSample("image is missing", f"none is named{names and ' among '}{names}")
    return _content(_located(source, item.image), "image", MAX_IMAGE_BYTES)


def _located(source: Source, path: str) -> Location:
    """Return the location of a file of an item.

    Raises:
        BadSample: nothing can be there: the address is malformed, or not one of a place that is read.
    """
    check_address(path)
    return source.locate(path)


def _content(file: Location, kind: str, limit_bytes: int) -> bytes:
    if file.is_local and (fault := _local_fault(Path(file.path), kind)):
        raise fault
    size = file.size()
    if size is None:
        raise BadSample(f"{kind} is missing", f"no file {file.uri}")
    if size > limit_bytes:
        raise BadSample(f"{kind} is too large", f"{size} bytes, the limit is {limit_bytes}")
    return file.read()


def _local_fault(path: Path, kind: str) -> BadSample | None:
    """Return why a path of this machine cannot be read, where that says nothing about any other path."""
    try:
        path.open("rb").close()
    except OSError as error:
        if error.errno in FAULTS_OF_PATHS:
            return BadSample(f"{kind} is missing", f"{str(path)[:DETAIL_LENGTH]}: {error.strerror}")
    return None


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What is known of a source before its files are read.

    Args:
        items: number of its items.
        repeats: number of items whose key an earlier item has, as when an image is listed once per caption.
        repeated: hashes of the keys that more than one item has.
        ambiguous: numbers of the image ids that more than one image has.
    """

    items: int
    repeats: int
    repeated: frozenset[int]
    ambiguous: frozenset[int]


@dataclass(frozen=True, slots=True)
class KeyedItem:
    """An item with its number in the source and a unique key."""

    number: int
    key: str
    item: Item


def summarize(source: Source) -> SourceSummary:
    """Iterate over a source once; takes 8 bytes of memory per item, and 24 more for each that has an image id.

    Raises:
        DataSetError: the source is malformed, or two image ids have the same number.
        StorageError: it cannot be read.
    """
    hashes, ids = array("Q"), ImageIds()
    for item in source.items():
        hashes.append(_hash(item.key))
        ids.add(item)
    values, counts = np.unique(np.frombuffer(hashes, np.uint64), return_counts=True)
    repeated = frozenset(values[counts > 1].tolist())
    return SourceSummary(len(hashes), len(hashes) - len(values), repeated, ids.ambiguous(source.name))


def with_unique_keys(source: Source, summary: SourceSummary) -> Iterator[KeyedItem]:
    """Yield the items with unique keys: the second item of an image gets the suffix #2, and so on.

    Those whose image id several images have are unusable.
    """
    seen: Counter[int] = Counter()
    ambiguous = AmbiguousIds(summary.ambiguous)
    for number, item in enumerate(source.items()):
        key = item.key
        if summary.repeated and (hashed := _hash(key)) in summary.repeated:
            seen[hashed] += 1
            key = f"{key}#{seen[hashed]}" if seen[hashed] > 1 else key
        yield KeyedItem(number, key, ambiguous.judged(item))


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest(), "little")
