"""The files of the cache, shared by all threads and processes of a user on a machine.

    head, ring      the images; see `Ring`
    table           their positions in the ring, by key; see `Table`
    lock            locked while the head changes, and while a process opens the cache
    users           locked in shared mode by all processes that have the cache open
    claims/N        locked while an image with this first byte of the key, in hexadecimal, is decoded

A process that is killed at any moment leaves all of it usable: the kernel releases its locks, and the table points to
an image only once it is complete.
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
"""Share of the limit that is reserved for the table; more than it takes."""

LOCK_TIMEOUT_S = 10.0
"""Timeout for the lock, which is held for microseconds; a process that holds it longer has been stopped."""

RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.05
"""Space left free on the disk: the smaller of this number of bytes and this share of it."""

SLOT = struct.Struct("<16sQ")
"""The first 16 bytes of a key, and a position in the ring; 0 for none."""

WAYS = 8
BUCKET_BYTES = WAYS * SLOT.size

EXPECTED_BYTES = 16 * 1024
"""Bytes of the ring per slot; with entries of at least twice that size, buckets rarely overflow."""


class Store:
    """Decoded images in a folder.

    If no other process has the folder open, a store of another size than the limit is cleared and resized.

    Args:
        folder: private to this user; created if missing.
        limit_bytes: most disk space that the images take.
        spare_bytes: returns how many more bytes may be written to the disk.

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
                self._resize(limit_bytes)
            downgrade_to_shared(self._users)

    @property
    def capacity_bytes(self) -> int:
        """Most disk space that its images take; 0 when the head is damaged."""
        head = self._ring.head
        return 0 if head is None else head.capacity

    def read(self, key: bytes) -> Pixels | None:
        """Return an image; None when it is missing or damaged.

        Raises:
            OSError: the disk is failing.
        """
        position = self._table.find(key)
        return None if position is None else self._ring.read(position, key)

    @contextmanager
    def claim(self, key: bytes, timeout_s: float = 0.0) -> Iterator[bool]:
        """Hold the claim to decode an image during the body; yields False when another thread or process holds it.

        A holder that outlasts the timeout counts as stopped, and is not waited for again.

        Raises:
            OSError: the claim's file cannot be opened.
        """
        number = key[0]
        with try_lock(
            self.folder / "claims" / f"{number:02x}", 0.0 if number in self._stopped else timeout_s
        ) as acquired:
            if acquired:
                self._stopped.discard(number)
            elif timeout_s:
                self._stopped.add(number)
            yield acquired

    def write(self, key: bytes, pixels: Pixels) -> bool:
        """Store an image, overwriting the oldest if necessary.

        Returns:
            False when it is too large, or its room was overwritten in the meantime.

        Raises:
            OSError: the disk is full or failing, or a stopped process holds the lock.
            ValueError: it is not an image.
        """
        check_pixels(pixels)
        with self._locked():
            position = self._ring.allocate(pixels, self._spare_bytes)
        if position is None or not self._ring.write(position, key, pixels):
            return False
        self._table.put(key, position)
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with try_lock(self.folder / "lock", LOCK_TIMEOUT_S) as acquired:
            if not acquired:
                raise OSError(errno.EBUSY, "another process holds the file `lock`")
            yield

    def _resize(self, limit_bytes: int) -> None:
        """Clear ring and table unless they have the right sizes."""
        capacity = int(limit_bytes * (1 - TABLE_SHARE)) // PAGE_BYTES * PAGE_BYTES
        if self.capacity_bytes != capacity or not self._table.fits(capacity):
            self._table.clear(capacity)
            self._ring.clear(capacity)


def _spare_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    reserve = min(RESERVE_BYTES, int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE))
    return disk.f_bavail * disk.f_frsize - reserve


class Table:
    """The position of each image in the ring: a hash table in a file, with buckets of eight slots.

    It is a hint, since every entry of the ring holds its key. So nothing is locked, and a slot that two processes write
    at once, or that is damaged, costs no more than decoding an image again.

    Args:
        path: its file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handle = open_private(path)

    def clear(self, capacity: int) -> None:
        """Clear it, for a ring of this capacity in bytes.

        Raises:
            OSError: the disk is failing.
        """
        os.ftruncate(self._handle, 0)
        os.ftruncate(self._handle, _size(capacity))

    def fits(self, capacity: int) -> bool:
        """Return whether it has the right size for a ring of this capacity in bytes."""
        return os.fstat(self._handle).st_size == _size(capacity)

    def find(self, key: bytes) -> int | None:
        """Return the position of a key, or None.

        Raises:
            OSError: the disk is failing.
        """
        _, slots = self._bucket(key)
        return next((position for start, position in slots if start == key[:16] and position), None)

    def put(self, key: bytes, position: int) -> None:
        """Set the position of a key.

        It replaces the key's former position, else an invalid one (higher than this one), else the oldest one.

        Raises:
            OSError: the disk is full or failing.
        """
        offset, slots = self._bucket(key)
        if slots:
            ranks = [(start != key[:16], other <= position, other) for start, other in slots]
            way = ranks.index(min(ranks))
            os.pwrite(self._handle, SLOT.pack(key[:16], position), offset + way * SLOT.size)

    def _bucket(self, key: bytes) -> tuple[int, list[tuple[bytes, int]]]:
        buckets = max(1, os.fstat(self._handle).st_size // BUCKET_BYTES)
        offset = int.from_bytes(key[16:24], "little") % buckets * BUCKET_BYTES
        content = os.pread(self._handle, BUCKET_BYTES, offset)
        return offset, list(SLOT.iter_unpack(content[: len(content) // SLOT.size * SLOT.size]))


def _size(capacity: int) -> int:
    return (capacity // EXPECTED_BYTES // WAYS + 1) * BUCKET_BYTES
