"""Image-text pairs in a folder: images, and beside each its captions."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from pyarrow import fs

from orchestrator.storage.location import Location
from orchestrator.storage.retry import retrying
from orchestrator.stream.building.annotations import Item, key_of
from orchestrator.stream.data_set.index import DataSetError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
CAPTION_SUFFIXES = ("txt", "json")


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A `Source`: KEY.jpg (or .jpeg, .png, .webp) with KEY.txt, KEY.json or both; sub-folders count.

    Args:
        folder: the folder.
    """

    folder: Location

    @property
    def name(self) -> str:
        """For people."""
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
        for _, together in groupby(paths, key=lambda path: path.rpartition("/")[0]):
            yield from self._items(together)

    def place(self, path: str) -> Location:
        """Return where a file is."""
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
        """Yield the files below a folder, those of one folder together; hidden ones are left out."""
        place = self.folder / below if below else self.folder
        infos = _listed(place)
        prefix = f"{below}/" if below else ""
        yield from ((prefix + info.base_name, info) for info in infos if info.type == fs.FileType.File)
        for info in infos:
            if info.type == fs.FileType.Directory:
                yield from self._files(prefix + info.base_name)


def _listed(place: Location) -> list[fs.FileInfo]:
    selector = fs.FileSelector(place.path)
    found = retrying(lambda: place.requests.get_file_info(selector), place.uri, "listed")
    visible = (info for info in found if not info.base_name.startswith("."))
    return sorted(visible, key=lambda info: str(info.base_name))
