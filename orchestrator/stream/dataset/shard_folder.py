"""Where a data set is: a folder of shards, or those shards of a folder whose names match a pattern (`train-*.tar`)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from orchestrator.storage.location import Location, locate

INDEX_NAME = "index.parquet"
INDEX_SUFFIX = ".index.parquet"
"""Ends the name of the index of a pattern's shards; that of a whole folder is `INDEX_NAME`."""

SIDECAR_SUFFIX = ".samples.parquet"
WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class ShardFolder(Location):
    """The shards of a folder whose names match a pattern; `path` is the folder's, `uri` ends in the pattern.

    Args:
        pattern: with the wildcards `*`, `?` and `[...]`.
    """

    pattern: str

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self.folder, self.pattern)

    def __truediv__(self, name: str) -> Location:
        return self.folder / name

    @property
    def folder(self) -> Location:
        """The folder."""
        return Location(self.filesystem, self.path, self.uri.removesuffix(f"/{self.pattern}"))


def select(folder: Location, pattern: str) -> ShardFolder:
    """Return the data set of those shards of a folder whose names match a pattern."""
    return ShardFolder(folder.filesystem, folder.path, f"{folder.uri}/{pattern}", pattern)


def locate_shards(uri: str, endpoint: str | None = None) -> Location:
    """Return the data set at a URI: a folder, or a folder with a pattern of file names as its last part.

    Args:
        uri: as for `locate`; a folder whose name has a wildcard in it is taken as it is.
        endpoint: address of an S3-compatible server, for `s3://` only.

    Raises:
        StorageError: as for `locate`, or storage cannot be reached.
    """
    location = locate(uri, endpoint)
    path, _, name = location.path.rpartition("/")
    if not WILDCARDS.search(name) or location.exists():
        return location
    return select(Location(location.filesystem, path, location.uri.removesuffix(f"/{name}")), name)


def in_data_set(folder: Location, name: str) -> bool:
    """Return whether a file of a folder belongs to the data set by its name."""
    return not isinstance(folder, ShardFolder) or fnmatchcase(name, folder.pattern)


def index_location(folder: Location) -> Location:
    """Return the location of a data set's index."""
    if not isinstance(folder, ShardFolder):
        return folder / INDEX_NAME
    label = re.sub(r"[^A-Za-z0-9]+", "-", folder.pattern.partition(".")[0]).strip("-") or "all"
    digest = hashlib.blake2b(folder.pattern.encode(), digest_size=3).hexdigest()
    return folder / f"{label}-{digest}{INDEX_SUFFIX}"


def is_bookkeeping(name: str) -> bool:
    """Return whether a file's name is that of an index or a sidecar."""
    return name == INDEX_NAME or name.endswith((INDEX_SUFFIX, SIDECAR_SUFFIX))


def why_missing(folder: Location) -> str:
    """Return that a data set's folder or bucket does not exist, or is a file, as a sentence; empty when it is there."""
    place = folder.folder if isinstance(folder, ShardFolder) else folder
    if place.size() is not None:
        return f"{place.uri}: is a file; name the folder that it is in, or some of its shards as FOLDER/*.tar."
    if place.exists():
        return ""
    bucket = place.path.partition("/")[0]
    if not place.is_local and not Location(place.filesystem, bucket, bucket).exists():
        return f"{place.uri}: does not exist: there is no bucket {bucket!r}."
    return f"{place.uri}: does not exist."


def _restored(folder: Location, pattern: str) -> ShardFolder:
    return select(folder, pattern)
