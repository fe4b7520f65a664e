"""The images one after another in a file of fixed size, which is written round and round: the oldest go first.

Positions count all bytes ever given out; position p is at byte p mod the file's capacity. An entry is there as long as
less than the capacity has been given out since.

    head    magic, capacity, end (the position of the next entry)
    ring    the entries
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.storage.local_files import open_private

# One decoded image as stored: a header and the pixels, which are used only if they are what the header promises.


Pixels = NDArray[np.uint8]
"""An image, [H, W, 3]."""

ENTRY_MAGIC = b"decoded1"
HEADER = struct.Struct("<8s32sII16s")
"""Magic, key, height, width, digest of the pixels."""

CHANNELS = 3
PAGE_BYTES = 4096
DIGEST_COLUMNS = 509


def check_pixels(pixels: Pixels) -> None:
    """Refuse what is no image.

    Raises:
        ValueError: what was given instead.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != CHANNELS or not pixels.flags.c_contiguous:
        raise ValueError(f"decoded images must be contiguous uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")


def entry_bytes(pixels: Pixels) -> int:
    """Return the room that an entry takes, in whole pages."""
    return -(-(HEADER.size + pixels.nbytes) // PAGE_BYTES) * PAGE_BYTES


def write_entry(handle: int, place: int, key: bytes, pixels: Pixels) -> None:
    """Write an entry at a place of an open file.

    Raises:
        OSError: not all of it could be written.
    """
    height, width, _ = pixels.shape
    header = HEADER.pack(ENTRY_MAGIC, key, height, width, _digest(pixels))
    if os.pwritev(handle, [header, pixels.data], place) != HEADER.size + pixels.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_entry(handle: int, place: int, key: bytes, most_bytes: int) -> Pixels | None:
    """Return the pixels of an entry, in memory of their own; None when it is not there, or damaged.

    Read, not mapped: a disk that fails is an error here and would kill the process there.

    Raises:
        OSError: the disk is failing.
    """
    header = os.pread(handle, HEADER.size, place)
    if len(header) < HEADER.size:
        return None
    magic, found, height, width, digest = HEADER.unpack(header)
    size = height * width * CHANNELS
    if (magic, found) != (ENTRY_MAGIC, key) or not 0 < size <= most_bytes:
        return None
    pixels = np.empty((height, width, CHANNELS), dtype=np.uint8)
    complete = os.preadv(handle, [pixels.data], place + HEADER.size) == size
    return pixels if complete and _digest(pixels) == digest else None


def _digest(pixels: Pixels) -> bytes:
    """Return 16 bytes that stand for an image, at the speed of memory.

    Its 64-bit words are laid out in rows of a prime length and summed down the columns, and the sums are hashed. That
    finds missing, flipped and zeroed bytes, and parts of other images; it is no protection against intent.
    """
    flat = pixels.reshape(-1)
    whole = flat.size // (8 * DIGEST_COLUMNS) * 8 * DIGEST_COLUMNS
    words = flat[:whole].view("<u8").reshape(-1, DIGEST_COLUMNS)
    sums = np.add.reduce(words, axis=0, dtype=np.uint64)
    return hashlib.sha256(sums.tobytes() + flat[whole:].tobytes()).digest()[:16]


# The images one after another in a file of fixed size, which is written round and round: the oldest go first.


RING_MAGIC = b"ring0001"
HEAD = struct.Struct("<8sQQ")
START = PAGE_BYTES
"""The first position; 0 stands for none."""

LARGEST_SHARE = 1 / 8
"""Of the capacity: larger images are not kept, since each would push out too many others."""


@dataclass(frozen=True, slots=True)
class Head:
    """How large the ring is, and how far it has been given out."""

    capacity: int
    end: int

    def holds(self, position: int) -> bool:
        """Return whether nothing has been written over what began at a position."""
        return START <= position < self.end <= position + self.capacity

    def after(self, size: int, spare_bytes: int) -> tuple[Head, int]:
        """Give out room for an entry; return the new head and the entry's position.

        In its first round the file grows. When the disk has no room for that, the ring stays as large as it is.

        Args:
            size: of the entry, in bytes.
            spare_bytes: that the disk can still take.

        Raises:
            OSError: the disk has so little room that a ring is not worth while.
        """
        capacity = self.capacity
        if self.end + size <= capacity and size > spare_bytes:
            capacity = self.end
            if size > capacity * LARGEST_SHARE:
                raise OSError(errno.ENOSPC, "the disk is nearly full")
        place = self.end % capacity
        position = self.end if place + size <= capacity else self.end + capacity - place
        return Head(capacity, position + size), position


class Ring:
    """An open ring. Its head changes under a lock that the caller holds; everything else needs none.

    Args:
        folder: where its files are.
    """

    def __init__(self, folder: Path) -> None:
        self._head = open_private(folder / "head")
        self._entries = open_private(folder / "ring")

    def clear(self, capacity: int) -> None:
        """Make it an empty ring of a size, in bytes and whole pages.

        Raises:
            OSError: the disk is full or failing.
        """
        os.ftruncate(self._head, 0)
        os.ftruncate(self._entries, 0)
        self._write_head(Head(capacity, START))

    @property
    def head(self) -> Head | None:
        """Its head; None when there is none that makes sense."""
        content = os.pread(self._head, HEAD.size, 0)
        if len(content) < HEAD.size:
            return None
        magic, capacity, end = HEAD.unpack(content)
        sound = magic == RING_MAGIC and capacity >= START and end >= START and not (capacity | end) % PAGE_BYTES
        return Head(capacity, end) if sound else None

    def give_out(self, pixels: Pixels, spare_bytes: Callable[[], int]) -> int | None:
        """Give out room for an image, over the oldest ones if need be; return its position, None if it is too large.

        Raises:
            OSError: the disk is full or failing, or the head is damaged.
        """
        head, size = self._sound_head(), entry_bytes(pixels)
        if size > head.capacity * LARGEST_SHARE:
            return None
        after, position = head.after(size, spare_bytes())
        self._write_head(after)
        return position

    def write(self, position: int, key: bytes, pixels: Pixels) -> bool:
        """Write an image where room was given out for it, unless that has been given to others by now.

        Raises:
            OSError: the disk is full or failing, or the head is damaged.
        """
        head = self._sound_head()
        if not head.holds(position):
            return False
        write_entry(self._entries, position % head.capacity, key, pixels)
        return True

    def read(self, position: int, key: bytes) -> Pixels | None:
        """Return the image at a position; None when another one is there by now, or it is damaged.

        Raises:
            OSError: the disk is failing, or the head is damaged.
        """
        head = self._sound_head()
        if not head.holds(position):
            return None
        place = position % head.capacity
        pixels = read_entry(self._entries, place, key, head.capacity - place)
        return pixels if self._sound_head().holds(position) else None

    def _sound_head(self) -> Head:
        head = self.head
        if head is None:
            raise OSError(errno.EIO, "its file `head` is damaged")
        return head

    def _write_head(self, head: Head) -> None:
        if os.pwrite(self._head, HEAD.pack(RING_MAGIC, head.capacity, head.end), 0) != HEAD.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
