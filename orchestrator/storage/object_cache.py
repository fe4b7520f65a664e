"""Ranges of objects whose size is remembered, so that a range costs one request instead of two."""

from __future__ import annotations

import threading
from collections import OrderedDict

import pyarrow as pa
from pyarrow import fs

from orchestrator.storage.exact import read_exactly
from orchestrator.storage.location import Location

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
