"""The files of the cache: one for each image, shared by all threads and processes of a user on a machine.

    lock            held while the queue changes
    queue           in which order the entries came
    claims/N        held by who decodes an image whose key falls to it
    entries/KK/KEY  the images, and KEY.draft while one is being written
    discarded       what is being removed because nothing is known of its order

A process that is killed at any moment leaves all of it usable: locks go with their holders, and a draft goes when its
place in the queue does.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

from orchestrator.storage.private_folder import make_private
from orchestrator.stream.decoded.entry import FLAGS, Pixels, check_pixels, entry_bytes, read_entry, write_entry
from orchestrator.stream.decoded.locking import held
from orchestrator.stream.decoded.queue_file import DamagedQueueError, QueueFile

CLAIMS = 1024
LOCK_PATIENCE_S = 1.0
"""How long to wait for the queue; who holds it longer has been stopped."""

RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.05
"""What is left free on the disk: the smaller of so many bytes and such a share of it."""

LARGEST_SHARE = 0.125
"""Of the limit: larger images are not kept, since each would push out too many others."""


class Store:
    """Keeps decoded images in a folder.

    Args:
        folder: private to this user; made if it is not there.
        limit_bytes: that the entries may take.
        spare_bytes: tells how much more may be written to the disk.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit_bytes: int, spare_bytes: Callable[[], int] | None = None) -> None:
        self.folder = folder
        self._limit_bytes = limit_bytes
        self._spare_bytes = spare_bytes or (lambda: _spare_bytes(folder))
        make_private(folder)
        for name in ("claims", "entries"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)

    def read(self, key: bytes) -> Pixels | None:
        """Return an image; None when it is not there, or its file is damaged.

        Raises:
            OSError: the disk is failing.
        """
        return read_entry(self._path(key), key)

    def claim(self, key: bytes, patience_s: float = 0.0) -> AbstractContextManager[bool]:
        """Keep others from decoding an image while the body runs; yields False when somebody else does that."""
        number = int.from_bytes(key[:4], "little") % CLAIMS
        return held(self.folder / "claims" / f"{number:03x}", patience_s)

    def write(self, key: bytes, pixels: Pixels) -> bool:
        """Keep an image; the caller holds its claim. Returns False when it cannot be kept now, or is too large.

        Raises:
            OSError: the disk is full or failing; nothing is left of the image.
        """
        check_pixels(pixels)
        path = self._path(key)
        draft = path.with_suffix(".draft")
        handle = self._reserve(key, draft, entry_bytes(pixels))
        if handle is None:
            return False
        try:
            try:
                write_entry(handle, key, pixels)
            finally:
                os.close(handle)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        with suppress(FileNotFoundError):  # it was the oldest entry before it was finished, and had to go
            draft.rename(path)
        return True

    def _reserve(self, key: bytes, draft: Path, size_bytes: int) -> int | None:
        """Make room, put the entry on record, and return its open file: from now on it goes when its turn comes."""
        if size_bytes > self._limit_bytes * LARGEST_SHARE:
            return None
        with held(self.folder / "lock", LOCK_PATIENCE_S) as mine:
            if not mine:
                return None
            with closing(self._queue()) as queue:
                room = min(self._limit_bytes, queue.live_bytes + self._spare_bytes()) - size_bytes
                queue.shrink(max(room, 0), self._remove)
                if room < 0:
                    raise OSError(errno.ENOSPC, "the disk is nearly full")
                queue.add(key, size_bytes)
            draft.parent.mkdir(mode=0o700, exist_ok=True)
            return os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FLAGS, 0o600)

    def _queue(self) -> QueueFile:
        path = self.folder / "queue"
        try:
            return QueueFile(path)
        except DamagedQueueError:
            self._start_over()
            return QueueFile.create(path)

    def _start_over(self) -> None:
        entries, discarded = self.folder / "entries", self.folder / "discarded"
        if discarded.exists():
            shutil.rmtree(discarded)
        entries.rename(discarded)  # at once, since others may be finishing drafts
        shutil.rmtree(discarded)
        entries.mkdir(mode=0o700)

    def _remove(self, key: bytes) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        path.with_suffix(".draft").unlink(missing_ok=True)

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self.folder / "entries" / name[:2] / name


def _spare_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    reserve = min(RESERVE_BYTES, int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE))
    return disk.f_bavail * disk.f_frsize - reserve
