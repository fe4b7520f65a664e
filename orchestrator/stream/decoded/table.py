"""Where in the ring an image is: a table in a file, eight places for each bucket of keys.

It is a hint: what it points to says itself which image it is. So nothing is locked, and a place that two processes
write at once, or that is damaged, costs no more than decoding an image again.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from orchestrator.storage.local_files import open_private

SLOT = struct.Struct("<16sQ")
"""The start of a key, and a position in the ring; 0 for none."""

WAYS = 8
BUCKET_BYTES = WAYS * SLOT.size
EXPECTED_BYTES = 16 * 1024
"""Of the ring for each slot; entries of twice that size and more leave the buckets room for chance."""


class Table:
    """An open table.

    Args:
        path: of its file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handle = open_private(path)

    def clear(self, capacity: int) -> None:
        """Make it an empty table for a ring of a size, in bytes.

        Raises:
            OSError: the disk is failing.
        """
        os.ftruncate(self._handle, 0)
        os.ftruncate(self._handle, _size(capacity))

    def fits(self, capacity: int) -> bool:
        """Return whether it has the size for a ring of a size, in bytes."""
        return os.fstat(self._handle).st_size == _size(capacity)

    def find(self, key: bytes) -> int | None:
        """Return the position that is noted for a key.

        Raises:
            OSError: the disk is failing.
        """
        _, slots = self._bucket(key)
        return next((position for start, position in slots if start == key[:16] and position), None)

    def note(self, key: bytes, position: int) -> None:
        """Note a key's position, in place of its former one, of one that is yet to come and so makes no sense, or of
        the oldest one.

        Raises:
            OSError: the disk is full or failing.
        """
        place, slots = self._bucket(key)
        if slots:
            ranks = [(start != key[:16], found <= position, found) for start, found in slots]
            way = ranks.index(min(ranks))
            os.pwrite(self._handle, SLOT.pack(key[:16], position), place + way * SLOT.size)

    def _bucket(self, key: bytes) -> tuple[int, list[tuple[bytes, int]]]:
        buckets = max(1, os.fstat(self._handle).st_size // BUCKET_BYTES)
        place = int.from_bytes(key[16:24], "little") % buckets * BUCKET_BYTES
        content = os.pread(self._handle, BUCKET_BYTES, place)
        return place, list(SLOT.iter_unpack(content[: len(content) // SLOT.size * SLOT.size]))


def _size(capacity: int) -> int:
    return (capacity // EXPECTED_BYTES // WAYS + 1) * BUCKET_BYTES
