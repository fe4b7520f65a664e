"""Image-text pairs listed in JSON files, in the annotation form of ALBEF.

That is a list of objects with `image`, a path, and `caption`, a text or a list of texts; everything else in an object
is kept as the sample's fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from orchestrator.storage.location import Location, locate
from orchestrator.stream.building.json_list import json_objects
from orchestrator.stream.data_set.index import DataSetError
from orchestrator.stream.indexing.read_through import ReadThrough, digest_of_file

IN_KEYS = str.maketrans(".#", "__")
"""What a key may not hold: WebDataset ends it at the first dot, and # numbers an image's further samples."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sample as its source names it; its files have not been read.

    Args:
        key: not yet unique.
        image: path or URI; empty when the source names none.
        record: caption and fields that are known already.
        caption_files: paths of files with captions, to be read.
    """

    key: str
    image: str
    record: Mapping[str, Any] = field(default_factory=dict)
    caption_files: tuple[str, ...] = ()


class Source(Protocol):
    """Where samples come from; it can be gone through again and gives the same items in the same order."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def digest(self) -> str:
        """Return a digest that changes when the items may have changed."""
        ...

    def items(self) -> Iterator[Item]:
        """Yield the items.

        Raises:
            DataSetError: the source is malformed.
            StorageError: it cannot be read.
        """
        ...

    def place(self, path: str) -> Location:
        """Return where a path that an item names is.

        Raises:
            StorageError: that kind of storage is not known.
        """
        ...


@dataclass(frozen=True, slots=True)
class JsonLists:
    """Samples listed in JSON files.

    Args:
        files: lists of objects, or files of an object a line.
        image_root: what relative paths of images start from; by default the folder of the first file.
        endpoint: address of an S3-compatible server, for images with `s3://` URIs.

    Raises:
        DataSetError: a file is named twice.
    """

    files: tuple[Location, ...]
    image_root: Location | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        uris = [file.uri for file in self.files]
        twice = next((uri for uri in uris if uris.count(uri) > 1), None)
        if twice:
            raise DataSetError(f"{twice}: is named twice; every sample would be there twice.")

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(file.uri for file in self.files)

    def digest(self) -> str:
        """Return a digest of the files' content and of where images are."""
        content = hashlib.blake2b(self._root().uri.encode(), digest_size=16)
        for file in self.files:
            content.update(digest_of_file(file).encode())
        return content.hexdigest()

    def items(self) -> Iterator[Item]:
        """Yield an item per object."""
        root = f"{self._root().uri}/"
        for file in self.files:
            for record in json_objects(ReadThrough(file), file.uri):
                named = record.get("image")
                image = named if isinstance(named, str) else ""
                yield Item(key_of(image.removeprefix(root)), image, record)

    def place(self, path: str) -> Location:
        """Return where an image is."""
        scheme, is_uri, rest = path.partition("://")
        if is_uri and scheme != "file":
            bucket, _, name = rest.partition("/")
            return _bucket(f"{scheme}://{bucket}", self.endpoint) / name
        path = path.removeprefix("file://")
        return locate(path) if path.startswith("/") else self._root() / path

    def _root(self) -> Location:
        if self.image_root:
            return self.image_root
        first = self.files[0]
        return Location(first.filesystem, first.path.rpartition("/")[0], first.uri.rpartition("/")[0])


def key_of(path: str) -> str:
    """Return the key of an image from its path: without scheme, suffix and what a key may not hold."""
    folder, _, name = path.rpartition("://")[2].rpartition("/")
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    stem = name.rpartition(".")[0] or name
    return "/".join([*parts, stem.translate(IN_KEYS)]).encode("utf-8", "replace").decode()


@lru_cache(maxsize=64)
def _bucket(uri: str, endpoint: str | None) -> Location:
    return locate(uri, endpoint)
