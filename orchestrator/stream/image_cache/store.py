"""The files of the cache, shared by all threads and processes of a user on a machine.

    head, ring      the images; see `Ring`
    table           where each of them is; see `Table`
    lock            held while the head changes, and while a process opens the cache
    users           held together by all processes that have the cache open
    claims/N        held by who decodes an image whose key falls to it

A process that is killed at any moment leaves all of it usable: locks go with their holders, and the table points to an
image only once the whole of it is there.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.storage.local_files import (
    downgrade_to_shared,
    make_private,
    open_private,
    try_lock,
    try_lock_until_exit,
)
from orchestrator.stream.image_cache.ring_file import PAGE_BYTES, Pixels, Ring, check_pixels

TABLE_SHARE = 1 / 512
"""Of the limit: more than the table takes."""

LOCK_PATIENCE_S = 10.0
"""How long to wait for the lock, which is held for microseconds; who holds it longer has been stopped."""

RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.05
"""What is left free on the disk: the smaller of so many bytes and such a share of it."""


class Store:
    """Keeps decoded images in a folder.

    A folder that others have in use stays as large as it is; otherwise one of another size is begun anew.

    Args:
        folder: private to this user; made if it is not there.
        limit_bytes: that the images may take.
        spare_bytes: tells how much more may be written to the disk.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit_bytes: int, spare_bytes: Callable[[], int] | None = None) -> None:
        self.folder = folder
        self._spare_bytes = spare_bytes or (lambda: _spare_bytes(folder))
        make_private(folder)
        make_private(folder / "claims")
        self._stopped: set[int] = set()
        with self._locked():
            self._ring, self._table = Ring(folder), Table(folder / "table")
            self._users, alone = try_lock_until_exit(folder / "users")
            if alone:
                self._adapt(limit_bytes)
            downgrade_to_shared(self._users)

    @property
    def capacity_bytes(self) -> int:
        """What its images may take; 0 when the head is damaged."""
        head = self._ring.head
        return 0 if head is None else head.capacity

    def read(self, key: bytes) -> Pixels | None:
        """Return an image; None when it is not there, or damaged.

        Raises:
            OSError: the disk is failing.
        """
        position = self._table.find(key)
        return None if position is None else self._ring.read(position, key)

    @contextmanager
    def claim(self, key: bytes, timeout_s: float = 0.0) -> Iterator[bool]:
        """Keep others from decoding an image while the body runs; yields False when somebody else does that.

        Whoever kept a claim for all of the patience has been stopped, and is not waited for again.

        Raises:
            OSError: the claim's file cannot be opened.
        """
        number = key[0]
        with try_lock(self.folder / "claims" / f"{number:02x}", 0.0 if number in self._stopped else timeout_s) as mine:
            if mine:
                self._stopped.discard(number)
            elif timeout_s:
                self._stopped.add(number)
            yield mine

    def write(self, key: bytes, pixels: Pixels) -> bool:
        """Keep an image, over the oldest ones if need be; returns False when it is too large, or its turn is over.

        Raises:
            OSError: the disk is full or failing, or another process has been stopped while it held the lock.
            ValueError: it is no image.
        """
        check_pixels(pixels)
        with self._locked():
            position = self._ring.give_out(pixels, self._spare_bytes)
        if position is None or not self._ring.write(position, key, pixels):
            return False
        self._table.note(key, position)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with try_lock(self.folder / "lock", LOCK_PATIENCE_S) as mine:
            if not mine:
                raise OSError(errno.EBUSY, "another process keeps the file `lock`")
            yield

    def _adapt(self, limit_bytes: int) -> None:
        """Begin anew unless ring and table have the sizes that they should have."""
        wanted = int(limit_bytes * (1 - TABLE_SHARE)) // PAGE_BYTES * PAGE_BYTES
        if self.capacity_bytes != wanted or not self._table.fits(wanted):
            self._table.clear(wanted)
            self._ring.clear(wanted)


def _spare_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    reserve = min(RESERVE_BYTES, int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE))
    return disk.f_bavail * disk.f_frsize - reserve


# Where in the ring an image is: a table in a file, eight places for each bucket of keys.
#
# It is a hint: what it points to says itself which image it is. So nothing is locked, and a place that two processes
# write at once, or that is damaged, costs no more than decoding an image again.


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
