"""A stored file as a file object, for libraries that want one (tarfile, pyarrow.parquet)."""

from __future__ import annotations

import io
import os
from typing import Any

from orchestrator.storage.location import Location, StorageError
from orchestrator.storage.ranges import FileRange, read_ranges

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
