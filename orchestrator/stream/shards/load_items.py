"""From an item that a source names to a sample, or the reason why it cannot be one."""

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


def load(source: Source, item: Item, key: str) -> Sample:
    """Read what an item names and check it; the image's bytes stay as they are.

    Args:
        source: of the item.
        item: the item.
        key: the sample's key.

    Raises:
        BadSample: a file is missing, too large or not an image, or there is no caption.
        StorageError: the store is failing; nothing is known about the sample.
    """
    fields = dict(item.record)
    captions = list(_captions_in(fields))
    for path in item.caption_files:
        content = _content(source.place(path), "caption", MAX_CAPTION_BYTES)
        captions += _captions_of_file(path, content, fields)
    stripped = (caption.strip() for caption in captions)
    distinct = tuple(dict.fromkeys(caption for caption in stripped if caption))
    if not distinct:
        raise BadSample("caption is missing")
    _check_text([distinct, fields])
    image = _image(source, item.image)
    read_header(image)
    return Sample(key, image, distinct, fields)


def _captions_in(fields: dict[str, Any]) -> tuple[str, ...]:
    """Take the captions out of an object."""
    single = fields.pop("caption", None)
    return parse_captions(fields.pop("captions", single))


def _captions_of_file(path: str, content: bytes, fields: dict[str, Any]) -> tuple[str, ...]:
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
    captions = _captions_in(value)
    fields.update(value)
    return captions


def _image(source: Source, path: str) -> bytes:
    if not path or "\0" in path:
        raise BadSample("image is missing", "none is named" if not path else repr(path))
    scheme, is_uri, _ = path.partition("://")
    if is_uri and scheme not in ("file", "s3", "gs", "gcs"):
        raise BadSample("image address is not supported", "download the images first")
    return _content(source.place(path), "image", MAX_IMAGE_BYTES)


def _content(place: Location, what: str, limit_bytes: int) -> bytes:
    size = place.size()
    if size is None:
        raise BadSample(f"{what} is missing", f"no file {place.uri}")
    if size > limit_bytes:
        raise BadSample(f"{what} is too large", f"{size} bytes, the limit is {limit_bytes}")
    return place.read()


def _check_text(values: Any) -> None:
    """Refuse text that JSON can escape but no file can hold, such as half of a surrogate pair."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadSample("text is not UTF-8", str(error)) from error


# A first look at a source: how many items it has, and which images it names more than once.


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
