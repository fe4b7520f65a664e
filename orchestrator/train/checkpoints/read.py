"""Reads the files of a checkpoint and verifies their sizes and digests; marks checkpoints as damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import TypeVar

import numpy as np

from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import LARGEST_MERGE_BYTES, FileRange, read_ranges
from orchestrator.storage.retry import StorageError, retrying
from orchestrator.storage.run_folder import DAMAGED_FILE, MANIFEST_FILE, json_bytes
from orchestrator.train.checkpoints.manifest import CheckpointError, DamagedError, FileRecord, Manifest, parse_object

READ_AHEAD_BYTES = 8 * LARGEST_MERGE_BYTES
"""How much of a remote file is read at once, in several concurrent requests."""

Result = TypeVar("Result")


def checked_sizes(folder: Location, manifest: Manifest) -> dict[str, int]:
    """Return the sizes of all files in a checkpoint's folder, after checking those in the manifest.

    Raises:
        DamagedError: a file is missing or has another size.
        StorageError: the folder cannot be listed.
    """
    sizes = folder.sizes()
    compare_sizes(folder, manifest, sizes)
    return sizes


def compare_sizes(folder: Location, manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Compare the sizes of a checkpoint's files with the manifest's.

    Raises:
        DamagedError: a file is missing or has another size.
    """
    for name, record in manifest.files.items():
        if name not in sizes:
            raise DamagedError(f"{folder.uri}/{name}: is missing.")
        if sizes[name] != record.size_bytes:
            raise DamagedError(f"{folder.uri}/{name}: is damaged ({sizes[name]} bytes instead of {record.size_bytes}).")


def check_digest(location: Location, record: FileRecord) -> None:
    """Read a file and compare its digest with the manifest's, without keeping its content.

    Raises:
        DamagedError: the file is missing or has changed.
        StorageError: the store is failing; nothing is known about the file.
    """
    _compare(location, record, _read_or_missing(location, lambda: _digest(location, record)))


def read_verified(location: Location, record: FileRecord) -> bytes:
    """Return the content of a small file.

    Raises:
        DamagedError: the file is missing or has changed.
        StorageError: the store is failing; nothing is known about the file.
    """
    content = _read_or_missing(location, location.read)
    _compare(location, record, hashlib.sha256(content).hexdigest())
    return content


def load_verified(location: Location, record: FileRecord) -> memoryview:
    """Return the content of a large file: a local one is memory-mapped, a remote one is read into memory.

    Raises:
        DamagedError: the file is missing or has changed.
        StorageError: the store is failing; nothing is known about the file.
    """
    if location.is_local:
        check_digest(location, record)
        return _read_or_missing(location, lambda: _memory_map(location))
    content, digest = _read_or_missing(location, lambda: _download(location, record))
    _compare(location, record, digest)
    return content


def _read_or_missing(location: Location, read: Callable[[], Result]) -> Result:
    """Read; a file that does not exist is damage, not a failure of the store."""
    try:
        return read()
    except StorageError as error:
        if location.size() is None:
            raise DamagedError(f"{location.uri}: is missing.") from error
        raise


def _compare(location: Location, record: FileRecord, digest: str) -> None:
    if digest != record.sha256:
        raise DamagedError(f"{location.uri}: is damaged (its digest does not match the manifest).")


def _digest(location: Location, record: FileRecord) -> str:
    if location.is_local:
        return retrying(lambda: _local_digest(Path(location.path)), location.uri, "read")
    digest = hashlib.sha256()
    for part in _parts(location, record.size_bytes):
        digest.update(part)
    return digest.hexdigest()


def _local_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _memory_map(location: Location) -> memoryview:
    def attempt() -> memoryview:
        with open(location.path, "rb") as file:
            return memoryview(mmap(file.fileno(), 0, access=ACCESS_COPY))

    return retrying(attempt, location.uri, "read")


def _download(location: Location, record: FileRecord) -> tuple[memoryview, str]:
    """Return a remote file and its digest."""
    content, digest, done = np.empty(record.size_bytes, np.uint8).data, hashlib.sha256(), 0
    for part in _parts(location, record.size_bytes):
        digest.update(part)
        content[done : done + len(part)] = part
        done += len(part)
    return content, digest.hexdigest()


def _parts(location: Location, size_bytes: int) -> Iterator[memoryview]:
    """Yield a remote file part by part; fewer bytes than `size_bytes` when the file is shorter."""
    for start in range(0, size_bytes, READ_AHEAD_BYTES):
        stop = min(start + READ_AHEAD_BYTES, size_bytes)
        bounds = [*range(start, stop, LARGEST_MERGE_BYTES), stop]
        yield from read_ranges([FileRange(location, *pair) for pair in pairwise(bounds)], 0)


def mark_damaged(folder: Location, reason: str, now: datetime) -> None:
    """Mark a checkpoint as damaged, so that it is skipped from now on; does nothing when it was deleted.

    Args:
        folder: the checkpoint.
        reason: what is damaged, for the user.
        now: the time.

    Raises:
        StorageError: the mark cannot be written.
    """
    if (folder / MANIFEST_FILE).size() is not None:
        (folder / DAMAGED_FILE).write(json_bytes({"reason": reason, "found": now.isoformat(timespec="seconds")}))


def unmark_damaged(folder: Location) -> None:
    """Remove the mark from a checkpoint that is whole again.

    Raises:
        StorageError: the mark cannot be removed.
    """
    (folder / DAMAGED_FILE).delete()


def damage_reason(folder: Location) -> str:
    """Return why a checkpoint was marked as damaged."""
    location = folder / DAMAGED_FILE
    try:
        return str(parse_object(location.read(), location.uri).get("reason", "no reason given"))
    except CheckpointError as error:
        return str(error)
