"""Sources of image-text pairs: what a source is, and folders of images with text or JSON files of the same name.

The other kind of source, files that list images with their captions, is in `lists`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from pyarrow import fs

from orchestrator.storage.location import Location
from orchestrator.storage.retry import retrying
from orchestrator.stream.dataset.index import DataSetError
from workloads.contract import BadSample

IN_KEYS = str.maketrans(".#", "__")
"""Characters that keys cannot have: WebDataset ends a key at the first dot, and # numbers repeated images."""

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
CAPTION_SUFFIXES = ("txt", "json")


@dataclass(frozen=True, slots=True)
class Item:
    """A sample as listed by its source; its files have not been read.

    Args:
        key: not yet unique.
        image: path or URI; empty when the source names none.
        record: captions and fields in the list.
        caption_files: paths of files with captions.
        fault: what makes it unusable, if the source itself knows.
    """

    key: str
    image: str
    record: Mapping[str, Any] = field(default_factory=dict)
    caption_files: tuple[str, ...] = ()
    fault: BadSample | None = None


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

    def left_out(self) -> dict[str, int]:
        """Return how many files of each kind the source has and does not take."""
        ...

    def locate(self, path: str) -> Location:
        """Return the location of a path in an item.

        Raises:
            StorageError: the URI scheme is unknown.
        """
        ...


def key_of(path: str) -> str:
    """Return the key of an image from its path: without scheme, suffix and forbidden characters."""
    folder, _, name = path.rpartition("://")[2].rpartition("/")
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    stem = name.rpartition(".")[0] or name
    return "/".join([*parts, stem.translate(IN_KEYS)]).encode("utf-8", "replace").decode()


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

    def left_out(self) -> dict[str, int]:
        """Return the suffixes of files that are neither images nor captions, with how many there are of each."""
        suffixes = Counter(_suffix(path) for path, _ in self._files(""))
        return {suffix or "no suffix": count for suffix, count in sorted(suffixes.items()) if not _is_known(suffix)}

    def locate(self, path: str) -> Location:
        """Return the location of a file."""
        return self.folder / path

    def _items(self, paths: Iterable[str]) -> Iterator[Item]:
        """Yield the items of one folder."""
        by_stem: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for path in paths:
            if _is_known(suffix := _suffix(path)):
                by_stem[path[: -len(suffix)]][suffix[1:]].append(path)
        for files in by_stem.values():
            images = [path for suffix in IMAGE_SUFFIXES for path in files[suffix]]
            captions = tuple(path for suffix in CAPTION_SUFFIXES for path in files[suffix])
            for alike in (images, *(files[suffix] for suffix in CAPTION_SUFFIXES)):
                if len(alike) > 1:
                    both = f"{alike[0]} and {alike[1]}"
                    raise DataSetError(f"{self.name}: {both} would share a key and captions; rename one of them.")
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


def _suffix(path: str) -> str:
    """Return the suffix of a file in lower case, with its dot; empty when there is none."""
    stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return f"{dot}{suffix.lower()}" if stem else ""


def _is_known(suffix: str) -> bool:
    return suffix[1:] in (*IMAGE_SUFFIXES, *CAPTION_SUFFIXES)


def _list(folder: Location) -> list[fs.FileInfo]:
    selector = fs.FileSelector(folder.path)
    infos = retrying(lambda: folder.single_attempt_filesystem.get_file_info(selector), folder.uri, "listed")
    visible = (info for info in infos if not info.base_name.startswith("."))
    return sorted(visible, key=lambda info: str(info.base_name))
