"""Sources of image-text pairs: JSON annotation lists, and folders of images with caption files.

`JsonLists` reads the annotation format of ALBEF: a list of objects with `image`, a path, and `caption`, a text or a
list of texts; all other values of an object become the sample's fields. `ImageFolder` reads images with a text or JSON
file of the same name.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any, Protocol

from pyarrow import fs

from orchestrator.storage.location import Location, locate
from orchestrator.storage.retry import retrying
from orchestrator.stream.dataset.index import ByteStream, DataSetError, HashingReader, file_digest

IN_KEYS = str.maketrans(".#", "__")
"""Characters that keys cannot have: WebDataset ends a key at the first dot, and # numbers repeated images."""

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
CAPTION_SUFFIXES = ("txt", "json")
BLOCK_BYTES = 4 << 20

MAX_ITEM_CHARACTERS = 16 << 20
"""A longer item counts as malformed."""

BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Item:
    """A sample as listed by its source; its files have not been read.

    Args:
        key: not yet unique.
        image: path or URI; empty when the source names none.
        record: captions and fields in the list.
        caption_files: paths of files with captions.
    """

    key: str
    image: str
    record: Mapping[str, Any] = field(default_factory=dict)
    caption_files: tuple[str, ...] = ()


class Source(Protocol):
    """Yields items; every iteration gives the same items in the same order."""

    @property
    def name(self) -> str:
        """Its name, for messages."""
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

    def locate(self, path: str) -> Location:
        """Return the location of a path in an item.

        Raises:
            StorageError: the URI scheme is unknown.
        """
        ...


@dataclass(frozen=True, slots=True)
class JsonLists:
    """Samples listed in JSON files.

    Args:
        files: JSON lists of objects, or JSON lines.
        image_root: base of relative image paths; by default the folder of the first file.
        endpoint: address of an S3-compatible server, for images with `s3://` URIs.

    Raises:
        DataSetError: a file is named twice.
    """

    files: tuple[Location, ...]
    image_root: Location | None = None
    endpoint: str | None = None

    def __post_init__(self) -> None:
        uris = [file.uri for file in self.files]
        repeated = next((uri for uri in uris if uris.count(uri) > 1), None)
        if repeated:
            raise DataSetError(f"{repeated}: is named twice; every sample would be there twice.")

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return ", ".join(file.uri for file in self.files)

    def digest(self) -> str:
        """Return a digest of the files' content and of the image root."""
        content = hashlib.blake2b(self._root().uri.encode(), digest_size=16)
        for file in self.files:
            content.update(file_digest(file).encode())
        return content.hexdigest()

    def items(self) -> Iterator[Item]:
        """Yield an item per object."""
        root = f"{self._root().uri}/"
        for file in self.files:
            for record in json_objects(HashingReader(file), file.uri):
                path = record.get("image")
                image = path if isinstance(path, str) else ""
                yield Item(key_of(image.removeprefix(root)), image, record)

    def locate(self, path: str) -> Location:
        """Return the location of an image."""
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
    """Return the key of an image from its path: without scheme, suffix and forbidden characters."""
    folder, _, name = path.rpartition("://")[2].rpartition("/")
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    stem = name.rpartition(".")[0] or name
    return "/".join([*parts, stem.translate(IN_KEYS)]).encode("utf-8", "replace").decode()


@lru_cache(maxsize=64)
def _bucket(uri: str, endpoint: str | None) -> Location:
    return locate(uri, endpoint)


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A `Source`: KEY.jpg (or .jpeg, .png, .webp) with KEY.txt, KEY.json or both; subfolders are included.

    Args:
        folder: the folder.
    """

    folder: Location

    @property
    def name(self) -> str:
        """Its name, for messages."""
        return self.folder.uri

    def digest(self) -> str:
        """Return a digest of the names, sizes and times of modification of the files."""
        content = hashlib.blake2b(digest_size=16)
        for path, info in self._files(""):
            content.update(f"{path}\0{info.size}\0{info.mtime_ns}\n".encode(errors="surrogateescape"))
        return content.hexdigest()

    def items(self) -> Iterator[Item]:
        """Yield an item per name that has an image or captions.

        Raises:
            DataSetError: two images share a name.
            StorageError: the folder cannot be listed.
        """
        paths = (path for path, _ in self._files(""))
        for _, of_folder in groupby(paths, key=lambda path: path.rpartition("/")[0]):
            yield from self._items(of_folder)

    def locate(self, path: str) -> Location:
        """Return the location of a file."""
        return self.folder / path

    def _items(self, paths: Iterable[str]) -> Iterator[Item]:
        """Yield the items of one folder."""
        by_stem: defaultdict[str, dict[str, str]] = defaultdict(dict)
        for path in paths:
            stem, _, suffix = path.rpartition(".")
            if suffix.lower() in (*IMAGE_SUFFIXES, *CAPTION_SUFFIXES):
                by_stem[stem][suffix.lower()] = path
        for files in by_stem.values():
            images = [files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files]
            captions = tuple(files[suffix] for suffix in CAPTION_SUFFIXES if suffix in files)
            if len(images) > 1:
                raise DataSetError(
                    f"{self.name}: {images[0]} and {images[1]} would share a key and captions; rename one of them."
                )
            yield Item(key_of([*images, *captions][0]), images[0] if images else "", caption_files=captions)

    def _files(self, below: str) -> Iterator[tuple[str, fs.FileInfo]]:
        """Yield the files below a folder, grouped by folder, without hidden ones."""
        folder = self.folder / below if below else self.folder
        infos = _list(folder)
        prefix = f"{below}/" if below else ""
        yield from ((prefix + info.base_name, info) for info in infos if info.type == fs.FileType.File)
        for info in infos:
            if info.type == fs.FileType.Directory:
                yield from self._files(prefix + info.base_name)


def _list(folder: Location) -> list[fs.FileInfo]:
    selector = fs.FileSelector(folder.path)
    infos = retrying(lambda: folder.single_attempt_filesystem.get_file_info(selector), folder.uri, "listed")
    visible = (info for info in infos if not info.base_name.startswith("."))
    return sorted(visible, key=lambda info: str(info.base_name))


def json_objects(stream: ByteStream, name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list or of JSON lines one by one; files of gigabytes need some megabytes of memory.

    Args:
        stream: the file.
        name: its name, for messages.

    Raises:
        DataSetError: it is neither, or it is malformed or truncated.
    """
    text = _Text(stream, name)
    if text.skip() == "{":
        yield from _until(text, "")
        return
    if text.skip() != "[":
        raise DataSetError(f'{name}: is not a JSON list; expected [{{"image": ..., "caption": ...}}, ...].')
    text.position += 1
    yield from _until(text, "]")
    text.position += 1
    if text.skip():
        raise DataSetError(f"{name}: has something behind the end of its list.")


def _until(text: _Text, end: str) -> Iterator[dict[str, Any]]:
    number = 0
    while (start := text.skip()) != end:
        if start != "{":
            actual = f"{start!r}" if start else "its end"
            raise DataSetError(f"{text.name}: expected an object as item {number}, found {actual}; is it truncated?")
        yield text.item(number)
        number += 1


class _Text:
    """A window over a text file that grows only while an item is incomplete."""

    def __init__(self, stream: ByteStream, name: str) -> None:
        self.name = name
        self.position = 0
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._window = ""
        self._parse = json.JSONDecoder().raw_decode

    def skip(self) -> str:
        """Skip spaces and commas and return the next character; empty at the end."""
        while True:
            if match := BETWEEN.match(self._window, self.position):
                self.position = match.end()
            if self.position < len(self._window):
                return self._window[self.position]
            if not self._grow():
                return ""

    def item(self, number: int) -> dict[str, Any]:
        """Return the object that begins at the position."""
        while True:
            try:
                value, self.position = self._parse(self._window, self.position)
                return dict(value)
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self._window) - self.position > MAX_ITEM_CHARACTERS or not self._grow():
                    raise DataSetError(f"{self.name}: item {number} is malformed JSON ({error}).") from error

    def _grow(self) -> bool:
        block = self._stream.read(BLOCK_BYTES)
        try:
            more = self._decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise DataSetError(f"{self.name}: is not UTF-8 text ({error}).") from error
        self._window, self.position = self._window[self.position :] + more, 0
        return bool(block)
