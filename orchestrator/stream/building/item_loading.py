"""From an item that a source names to a sample, or the reason why it cannot be one."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.storage.location import Location
from orchestrator.stream.building.annotations import Item, Source
from orchestrator.stream.data_set.captions import captions_of
from orchestrator.stream.data_set.pictures import read_header
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
    return captions_of(fields.pop("captions", single))


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
