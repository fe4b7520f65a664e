"""A ring buffer of decoded images in a file of fixed size; new images overwrite the oldest.

Positions count all bytes ever allocated; position p is at byte `p mod capacity` of the file. An entry is valid until as
many bytes as the capacity have been allocated after it.

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

Pixels = NDArray[np.uint8]
"""An image, [H, W, 3]."""

ENTRY_MAGIC = b"decoded1"
HEADER = struct.Struct("<8s32sII16s")
"""Header of an entry: magic, key, height, width, digest of the pixels, which follow."""

CHANNELS = 3
PAGE_BYTES = 4096
DIGEST_COLUMNS = 509
RING_MAGIC = b"ring0001"
HEAD = struct.Struct("<8sQQ")

START = PAGE_BYTES
"""The first position; 0 means none."""

LARGEST_SHARE = 1 / 8
"""Largest share of the capacity for one image: a larger one would evict too many others."""


def check_pixels(pixels: Pixels) -> None:
    """Check that an array is an image.

    Raises:
        ValueError: it is not.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != CHANNELS or not pixels.flags.c_contiguous:
        raise ValueError(f"decoded images must be contiguous uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")


def entry_bytes(pixels: Pixels) -> int:
    """Return the size of an entry, in whole pages."""
    return -(-(HEADER.size + pixels.nbytes) // PAGE_BYTES) * PAGE_BYTES


def write_entry(handle: int, offset: int, key: bytes, pixels: Pixels) -> None:
    """Write an entry at an offset of an open file.

    Raises:
        OSError: not all of it could be written.
    """
    height, width, _ = pixels.shape
    header = HEADER.pack(ENTRY_MAGIC, key, height, width, _digest(pixels))
    if os.pwritev(handle, [header, pixels.data], offset) != HEADER.size + pixels.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_entry(handle: int, offset: int, key: bytes, most_bytes: int) -> Pixels | None:
    """Return a copy of the pixels of an entry; None when it is another one, or damaged.

    The file is read, not memory-mapped: a failing disk raises an error, where a mapping would kill the process.

    Raises:
        OSError: the disk is failing.
    """
    header = os.pread(handle, HEADER.size, offset)
    if len(header) < HEADER.size:
        return None
    magic, stored_key, height, width, digest = HEADER.unpack(header)
    size = height * width * CHANNELS
    if (magic, stored_key) != (ENTRY_MAGIC, key) or not 0 < size <= most_bytes:
        return None
    pixels = np.empty((height, width, CHANNELS), dtype=np.uint8)
    complete = os.preadv(handle, [pixels.data], offset + HEADER.size) == size
    return pixels if complete and _digest(pixels) == digest else None


def _digest(pixels: Pixels) -> bytes:
    """Return a 16-byte checksum of an image, at memory bandwidth.

    Its 64-bit words are laid out in rows of a prime length and summed down the columns, and the sums are hashed. That
    detects missing, flipped and zeroed bytes, and parts of other images, but not deliberate changes.
    """
    flat = pixels.reshape(-1)
    whole = flat.size // (8 * DIGEST_COLUMNS) * 8 * DIGEST_COLUMNS
    words = flat[:whole].view("<u8").reshape(-1, DIGEST_COLUMNS)
    sums = np.add.reduce(words, axis=0, dtype=np.uint64)
    return hashlib.sha256(sums.tobytes() + flat[whole:].tobytes()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Head:
    """The capacity of the ring, and the position of the next entry."""

    capacity: int
    end: int

    def holds(self, position: int) -> bool:
        """Return whether the entry at a position has not been overwritten."""
        return START <= position < self.end <= position + self.capacity

    def allocate(self, size: int, spare_bytes: int) -> tuple[Head, int]:
        """Allocate an entry; return the new head and the entry's position.

        The file grows until the ring is full once. If the disk is too full for that, the capacity shrinks to its size.

        Args:
            size: of the entry, in bytes.
            spare_bytes: bytes that may still be written to the disk.

        Raises:
            OSError: the disk is too full for a useful ring.
        """
        capacity = self.capacity
        if self.end + size <= capacity and size > spare_bytes:
            capacity = self.end
            if size > capacity * LARGEST_SHARE:
                raise OSError(errno.ENOSPC, "the disk is nearly full")
        offset = self.end % capacity
        position = self.end if offset + size <= capacity else self.end + capacity - offset
        return Head(capacity, position + size), position


class Ring:
    """An open ring. The caller holds a lock while its head changes; nothing else needs one.

    Args:
        folder: of its files.
    """

    def __init__(self, folder: Path) -> None:
        self._head = open_private(folder / "head")
        self._entries = open_private(folder / "ring")

    def clear(self, capacity: int) -> None:
        """Clear it and set its capacity, in bytes and whole pages.

        Raises:
            OSError: the disk is full or failing.
        """
        os.ftruncate(self._head, 0)
        os.ftruncate(self._entries, 0)
        self._write_head(Head(capacity, START))

    @property
    def head(self) -> Head | None:
        """Its head; None when it is missing or damaged."""
        content = os.pread(self._head, HEAD.size, 0)
        if len(content) < HEAD.size:
            return None
        magic, capacity, end = HEAD.unpack(content)
        valid = magic == RING_MAGIC and capacity >= START and end >= START and not (capacity | end) % PAGE_BYTES
        return Head(capacity, end) if valid else None

    def allocate(self, pixels: Pixels, spare_bytes: Callable[[], int]) -> int | None:
        """Allocate room for an image, over the oldest ones if necessary; return its position, None if it is too large.

        Raises:
            OSError: the disk is full or failing, or the head is damaged.
        """
        head, size = self._valid_head(), entry_bytes(pixels)
        if size > head.capacity * LARGEST_SHARE:
            return None
        new_head, position = head.allocate(size, spare_bytes())
        self._write_head(new_head)
        return position

    def write(self, position: int, key: bytes, pixels: Pixels) -> bool:
        """Write an image at its allocated position; return False when that was overwritten in the meantime.

        Raises:
            OSError: the disk is full or failing, or the head is damaged.
        """
        head = self._valid_head()
        if not head.holds(position):
            return False
        write_entry(self._entries, position % head.capacity, key, pixels)
        return True

    def read(self, position: int, key: bytes) -> Pixels | None:
        """Return the image at a position; None when it was overwritten or is damaged.

        Raises:
            OSError: the disk is failing, or the head is damaged.
        """
        head = self._valid_head()
        if not head.holds(position):
            return None
        offset = position % head.capacity
        pixels = read_entry(self._entries, offset, key, head.capacity - offset)
        return pixels if self._valid_head().holds(position) else None

    def _valid_head(self) -> Head:
        head = self.head
        if head is None:
            raise OSError(errno.EIO, "its file `head` is damaged")
        return head

    def _write_head(self, head: Head) -> None:
        if os.pwrite(self._head, HEAD.pack(RING_MAGIC, head.capacity, head.end), 0) != HEAD.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
