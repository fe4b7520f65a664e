"""Loads the samples of a source and checks them, and gives its items unique keys."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.images import read_header
from orchestrator.stream.dataset.sidecar import parse_captions
from orchestrator.stream.shards.sources import Item, Source
from workloads.contract import BadSample, Sample

MAX_IMAGE_BYTES = 64 * 1024 * 1024
MAX_CAPTION_BYTES = 1024 * 1024

HASH_BYTES = 8


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
    fields = dict(item.record)
    captions = list(_pop_captions(fields))
    for path in item.caption_files:
        content = _content(source.locate(path), "caption", MAX_CAPTION_BYTES)
        captions += _parse_caption_file(path, content, fields)
    stripped = (caption.strip() for caption in captions)
    distinct = tuple(dict.fromkeys(caption for caption in stripped if caption))
    if not distinct:
        raise BadSample("caption is missing")
    _check_text([distinct, fields])
    image = _image(source, item.image)
    read_header(image)
    return Sample(key, image, distinct, fields)


def _pop_captions(fields: dict[str, Any]) -> tuple[str, ...]:
    """Remove the captions from an object and return them."""
    single = fields.pop("caption", None)
    return parse_captions(fields.pop("captions", single))


def _parse_caption_file(path: str, content: bytes, fields: dict[str, Any]) -> tuple[str, ...]:
    """Return the captions in a .txt or .json file; the other values of the latter become fields."""
    try:
        if path.lower().endswith(".txt"):
            return (content.decode("utf-8-sig"),)
        value = json.loads(content)
    except UnicodeDecodeError as error:
        raise BadSample("caption is not UTF-8", str(error)) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadSample("json is malformed", str(error)) from error
    if not isinstance(value, dict):
        raise BadSample("json is malformed", "expected an object")
    captions = _pop_captions(value)
    fields.update(value)
    return captions


def _image(source: Source, path: str) -> bytes:
    if not path or "\0" in path:
        raise BadSample("image is missing", "none is named" if not path else repr(path))
    scheme, is_uri, _ = path.partition("://")
    if is_uri and scheme not in ("file", "s3", "gs", "gcs"):
        raise BadSample("image address is not supported", "download the images first")
    return _content(source.locate(path), "image", MAX_IMAGE_BYTES)


def _content(file: Location, kind: str, limit_bytes: int) -> bytes:
    size = file.size()
    if size is None:
        raise BadSample(f"{kind} is missing", f"no file {file.uri}")
    if size > limit_bytes:
        raise BadSample(f"{kind} is too large", f"{size} bytes, the limit is {limit_bytes}")
    return file.read()


def _check_text(values: Any) -> None:
    """Reject text that JSON can escape but UTF-8 cannot encode, such as half of a surrogate pair."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadSample("text is not UTF-8", str(error)) from error


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What is known of a source before its files are read.

    Args:
        items: number of its items.
        repeats: number of items whose key an earlier item has, as when an image is listed once per caption.
        repeated: hashes of the keys that more than one item has.
    """

    items: int
    repeats: int
    repeated: frozenset[int]


@dataclass(frozen=True, slots=True)
class KeyedItem:
    """An item with its number in the source and a unique key."""

    number: int
    key: str
    item: Item


def summarize(source: Source) -> SourceSummary:
    """Iterate over a source once; takes 8 bytes of memory per item."""
    hashes = array("Q", (_hash(item.key) for item in source.items()))
    values, counts = np.unique(np.frombuffer(hashes, np.uint64), return_counts=True)
    return SourceSummary(len(hashes), len(hashes) - len(values), frozenset(values[counts > 1].tolist()))


def with_unique_keys(source: Source, summary: SourceSummary) -> Iterator[KeyedItem]:
    """Yield the items with unique keys: the second item of an image gets the suffix #2, and so on."""
    seen: Counter[int] = Counter()
    for number, item in enumerate(source.items()):
        key = item.key
        if summary.repeated and (hashed := _hash(key)) in summary.repeated:
            seen[hashed] += 1
            key = f"{key}#{seen[hashed]}" if seen[hashed] > 1 else key
        yield KeyedItem(number, key, item)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=HASH_BYTES).digest(), "little")
