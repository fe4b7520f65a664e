"""Reads a file once, from its beginning to its end, and digests it on the way."""

from __future__ import annotations

import hashlib
from typing import Protocol

from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import FileRange, read_ranges
from orchestrator.storage.retry import StorageError
from orchestrator.stream.data_set.index import DIGEST_BYTES

BLOCK_BYTES = 4 * 1024 * 1024


class Stream(Protocol):
    """What is read from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        ...


class ReadThrough:
    """A file as a stream; it is fetched in large blocks, each tried again where that helps.

    Raises:
        StorageError: there is no such file.
    """

    def __init__(self, file: Location) -> None:
        size = file.size()
        if size is None:
            raise StorageError(f"{file.uri}: cannot be read: it does not exist.")
        self.size = size
        self._file = file
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._fetched = 0
        self._block = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end.

        Raises:
            StorageError: the store is failing, or the file was cut short in the meantime.
        """
        if not self._block:
            self._block = self._next_block()
        found, self._block = self._block[:size], self._block[size:]
        return bytes(found)

    def _next_block(self) -> memoryview:
        stop = min(self._fetched + BLOCK_BYTES, self.size)
        (block,) = read_ranges([FileRange(self._file, self._fetched, stop)])
        if len(block) < stop - self._fetched:
            raise StorageError(f"{self._file.uri}: changed while it was read; begin again when nothing writes to it.")
        self._fetched = stop
        self._digest.update(block)
        return block

    def digest(self) -> str:
        """Return the digest of what was read, in hexadecimal; of the file, once `read` returned nothing."""
        return self._digest.hexdigest()


def digest_of_file(file: Location) -> str:
    """Return the digest of a file, in hexadecimal.

    Raises:
        StorageError: it is missing, or the store is failing.
    """
    stream = ReadThrough(file)
    while stream.read(BLOCK_BYTES):
        pass
    return stream.digest()
