"""Byte ranges of many files at once: neighbours in one request, requests side by side, answers checked."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import fs

from orchestrator.storage.location import Location, read_exactly
from orchestrator.storage.retry import StorageError, retrying

OBJECT_STORE_READERS = 32
"""Requests of this process to object stores under way at once."""

LOCAL_GAP_BYTES = 32 * 1024
"""Gap up to which two ranges of a local file are read together: reading through costs less than another call."""

OBJECT_GAP_BYTES = 128 * 1024
"""The same for object stores. Requests travel side by side, so bytes read in vain soon cost more than a round trip."""

LARGEST_MERGE_BYTES = 8 * 1024 * 1024
"""Ranges are merged up to this length, so that long ones travel side by side and a broken one costs little."""


class FileRange(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of a file."""

    location: Location
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Merged:
    """One request: the bytes from `start` to `stop`, and which of the ranges asked for lie in them."""

    location: Location
    start: int
    stop: int
    members: tuple[int, ...]


def read_ranges(wanted: Sequence[FileRange], gap_bytes: int | None = None) -> list[memoryview]:
    """Return the bytes of some ranges, in the order asked for; a range behind the end of its file comes back shorter.

    Args:
        wanted: ranges of any files, in any order; they may overlap.
        gap_bytes: largest gap read through to save a request; by default one for local files and one for object stores.

    Raises:
        StorageError: a file is missing, or the store is failing; nothing is known about the bytes.
    """
    merged = merge(wanted, gap_bytes)
    remote = [one for one in merged if not one.location.is_local]
    contents = dict(zip(remote, _read_remote(remote), strict=True))
    contents |= {one: _read_local(one) for one in merged if one.location.is_local}
    found: list[memoryview] = [memoryview(b"")] * len(wanted)
    for one in merged:
        view = contents[one]
        for member in one.members:
            found[member] = view[wanted[member].start - one.start : wanted[member].stop - one.start]
    return found


def merge(wanted: Sequence[FileRange], gap_bytes: int | None = None) -> list[_Merged]:
    """Return the requests that cover some ranges: at most `LARGEST_MERGE_BYTES` each, unless one range is longer."""
    merged: list[_Merged] = []
    order = sorted(range(len(wanted)), key=lambda place: (wanted[place].location.uri, *wanted[place][1:]))
    for place in order:
        one = wanted[place]
        if one.stop <= one.start:
            continue
        if merged and _joins(merged[-1], one, _gap(one.location) if gap_bytes is None else gap_bytes):
            last = merged.pop()
            merged.append(_Merged(last.location, last.start, max(last.stop, one.stop), (*last.members, place)))
        else:
            merged.append(_Merged(one.location, one.start, one.stop, (place,)))
    return merged


def _joins(last: _Merged, one: FileRange, gap_bytes: int) -> bool:
    if last.location != one.location or one.start > last.stop + gap_bytes:
        return False
    return one.stop <= last.stop or one.stop - last.start <= LARGEST_MERGE_BYTES


def _gap(location: Location) -> int:
    return LOCAL_GAP_BYTES if location.is_local else OBJECT_GAP_BYTES


def _read_local(one: _Merged) -> memoryview:
    return memoryview(retrying(lambda: _pread(one.location.path, one.start, one.stop), one.location.uri, "read"))


def _pread(path: str, start: int, stop: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.pread(descriptor, stop - start, start)
        while start + len(content) < stop and (
            more := os.pread(descriptor, stop - start - len(content), start + len(content))
        ):
            content += more
        return content
    finally:
        os.close(descriptor)


def _read_remote(requests: Sequence[_Merged]) -> list[memoryview]:
    if len(requests) <= 1:
        return [_read_object(one, threading.Event()) for one in requests]
    stop = threading.Event()
    futures = [_readers().submit(_read_object, one, stop) for one in requests]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
        return [future.result() for future in futures]
    finally:
        stop.set()


def _read_object(one: _Merged, stop: threading.Event) -> memoryview:
    def attempt() -> memoryview:
        if stop.is_set():
            raise CancelledError
        return read_object(one.location, one.start, one.stop)

    return retrying(attempt, one.location.uri, "read")


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(OBJECT_STORE_READERS, thread_name_prefix="storage-read")


# Ranges of objects whose size is remembered, so that a range costs one request instead of two.


OPEN_OBJECTS = 4096


def read_object(location: Location, start: int, stop: int) -> memoryview:
    """Return the bytes of a range, in one attempt; fewer when the object ends earlier.

    Raises:
        ShortRead: fewer bytes came than the object has.
        OSError: the object is missing, or the request failed.
    """
    return _OPEN.read(location, start, stop)


class OpenObjects:
    """The objects that were read last. After any failure the next try asks for the object's size anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[int, str], tuple[fs.FileSystem, pa.NativeFile]] = OrderedDict()

    def read(self, location: Location, start: int, stop: int) -> memoryview:
        """See `read_object`."""
        filesystem = location.requests
        key = (id(filesystem), location.path)
        kept = self._kept(key)
        file = kept or filesystem.open_input_file(location.path)
        try:
            content, complete = _checked_read(file, start, stop, fresh=kept is None)
        except (OSError, pa.ArrowException):
            self._drop(key)
            raise
        if not complete:
            self._drop(key)
            return self.read(location, start, stop)
        self._keep(key, filesystem, file)
        return content

    def _kept(self, key: tuple[int, str]) -> pa.NativeFile | None:
        with self._lock:
            found = self._files.get(key)
            return None if found is None else found[1]

    def _keep(self, key: tuple[int, str], filesystem: fs.FileSystem, file: pa.NativeFile) -> None:
        with self._lock:
            self._files[key] = (filesystem, file)
            self._files.move_to_end(key)
            if len(self._files) > OPEN_OBJECTS:
                self._files.popitem(last=False)

    def _drop(self, key: tuple[int, str]) -> None:
        with self._lock:
            self._files.pop(key, None)


def _checked_read(file: pa.NativeFile, start: int, stop: int, fresh: bool) -> tuple[memoryview, bool]:
    """Return the bytes of a range, and whether they may be taken for all there are.

    They may not when the object ends inside the range, according to a size that was asked for some time ago.
    """
    size = file.size()
    there = max(0, min(stop, size) - start)
    return read_exactly(file, start, start + there), fresh or stop <= size


_OPEN = OpenObjects()


# A stored file as a file object, for libraries that want one (tarfile, pyarrow.parquet).


BUFFER_BYTES = 4 * 1024 * 1024


def open_stored(location: Location, buffer_bytes: int = BUFFER_BYTES) -> io.BufferedReader:
    """Open a file for reading; what fails on the way is tried again, as in `read_ranges`.

    Args:
        location: the file.
        buffer_bytes: how much is read at once, at least.

    Raises:
        StorageError: there is no such file; reading raises it when the store is failing.
    """
    size = location.size()
    if size is None:
        raise StorageError(f"{location.uri}: cannot be read: it does not exist.")
    return io.BufferedReader(_StoredFile(location, size), buffer_bytes)


class _StoredFile(io.RawIOBase):
    def __init__(self, location: Location, size: int) -> None:
        self._location = location
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"cannot seek to {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        (found,) = read_ranges([FileRange(self._location, self._position, self._position + len(target))])
        target[: len(found)] = found
        self._position += len(found)
        return len(found)
