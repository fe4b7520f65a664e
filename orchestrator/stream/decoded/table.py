"""Where in the ring an image is: a table in a file, eight places for each bucket of keys.

It is a hint: what it points to says itself which image it is. So nothing is locked, and a place that two processes
write at once, or that is damaged, costs no more than decoding an image again.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from orchestrator.stream.decoded.files import open_private

SLOT = struct.Struct("<16sQ")
"""The start of a key, and a position in the ring; 0 for none."""

WAYS = 8
BUCKET_BYTES = WAYS * SLOT.size
EXPECTED_BYTES = 32 * 1024
"""Of the smallest entries for which there are slots enough."""


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
        os.ftruncate(self._handle, (capacity // EXPECTED_BYTES // WAYS + 1) * BUCKET_BYTES)

    def find(self, key: bytes) -> int | None:
        """Return the position that is noted for a key.

        Raises:
            OSError: the disk is failing.
        """
        _, slots = self._bucket(key)
        return next((position for start, position in slots if start == key[:16] and position), None)

    def note(self, key: bytes, position: int) -> None:
        """Note a key's position, in place of the oldest one if need be.

        Raises:
            OSError: the disk is full or failing.
        """
        place, slots = self._bucket(key)
        if slots:
            way = min(range(len(slots)), key=lambda way: (slots[way][0] != key[:16], slots[way][1]))
            os.pwrite(self._handle, SLOT.pack(key[:16], position), place + way * SLOT.size)

    def _bucket(self, key: bytes) -> tuple[int, list[tuple[bytes, int]]]:
        buckets = max(1, os.fstat(self._handle).st_size // BUCKET_BYTES)
        place = int.from_bytes(key[16:24], "little") % buckets * BUCKET_BYTES
        content = os.pread(self._handle, BUCKET_BYTES, place)
        return place, list(SLOT.iter_unpack(content[: len(content) // SLOT.size * SLOT.size]))
