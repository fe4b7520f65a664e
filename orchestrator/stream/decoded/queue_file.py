"""The order in which entries came, in one file, so that the oldest go first and all of them fit into a given room.

    head        magic, this boot of the machine, and the number of the oldest record that counts
    record 0    where the count of bytes starts
    record n    an entry's key, and the bytes of all entries up to this one

Whoever changes it holds the cache's lock. A process that is killed between any two writes leaves a file that is right:
a record is there before its entry is, and stays until its entry is gone. A machine that goes down may lose records of
entries that it keeps, so a file counts until the next boot.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

MAGIC = b"decoded1"
HEAD = struct.Struct("<8s36s4xQ")
RECORD = struct.Struct("<32sQ")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
MANY_RECORDS = 4096
"""So many records that no longer count are worth writing the file anew."""


class DamagedQueueError(Exception):
    """The file is missing, damaged or of another boot; nothing is known of the entries."""


class QueueFile:
    """An open queue.

    Args:
        path: of the file.

    Raises:
        DamagedQueueError: there is none that can be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._handle = os.open(path, FLAGS)
        except FileNotFoundError as error:
            raise DamagedQueueError(f"{path} is missing") from error
        try:
            self._read_head()
        except DamagedQueueError:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path) -> QueueFile:
        """Write an empty queue, in place of what is there."""
        _write(path, RECORD.pack(bytes(32), 0))
        return cls(path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)

    @property
    def live_bytes(self) -> int:
        """Bytes of the entries that count."""
        return self._end - self._record(self._oldest - 1)[1]

    def shrink(self, room_bytes: int, remove: Callable[[bytes], None]) -> None:
        """Remove the oldest entries until the others fit; `remove` takes a key, whose entry may be gone already."""
        if self.live_bytes <= room_bytes:
            return
        while self._oldest < self._count and self.live_bytes > room_bytes:
            remove(self._record(self._oldest)[0])
            self._oldest += 1
        os.pwrite(self._handle, HEAD.pack(MAGIC, _boot(), self._oldest), 0)
        if self._oldest > max(MANY_RECORDS, self._count // 2):
            self._forget()

    def add(self, key: bytes, size_bytes: int) -> None:
        """Add an entry as the newest one.

        Raises:
            OSError: the disk is full or failing.
        """
        record = RECORD.pack(key, self._end + size_bytes)
        if os.pwrite(self._handle, record, self._place(self._count)) != RECORD.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._end += size_bytes
        self._count += 1

    def _read_head(self) -> None:
        size = os.fstat(self._handle).st_size
        self._count = (size - HEAD.size) // RECORD.size
        if self._count < 1:
            raise DamagedQueueError(f"{self._path} is cut short")
        magic, boot, self._oldest = HEAD.unpack(os.pread(self._handle, HEAD.size, 0))
        if (magic, boot) != (MAGIC, _boot()) or not 1 <= self._oldest <= self._count:
            raise DamagedQueueError(f"{self._path} is damaged or of another boot")
        self._end = self._record(self._count - 1)[1]
        if self.live_bytes < 0:
            raise DamagedQueueError(f"{self._path} is damaged")

    def _record(self, number: int) -> tuple[bytes, int]:
        key, end = RECORD.unpack(os.pread(self._handle, RECORD.size, self._place(number)))
        return key, end

    def _forget(self) -> None:
        """Write the file anew without the records that no longer count."""
        start = self._place(self._oldest - 1)
        _write(self._path, os.pread(self._handle, self._place(self._count) - start, start))
        self.close()
        self._handle = os.open(self._path, FLAGS)
        self._read_head()

    @staticmethod
    def _place(number: int) -> int:
        return HEAD.size + number * RECORD.size


def _write(path: Path, records: bytes) -> None:
    draft = path.with_suffix(".draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(HEAD.pack(MAGIC, _boot(), 1) + records)
    draft.replace(path)


@cache
def _boot() -> bytes:
    """Return what tells this boot of the machine from others, where the system says it."""
    return BOOT_ID.read_bytes().strip() if BOOT_ID.exists() else bytes(36)
