"""One decoded image as stored: a header and the pixels, which are used only if they are what the header promises."""

from __future__ import annotations

import errno
import hashlib
import os
import struct

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""An image, [H, W, 3]."""

MAGIC = b"decoded1"
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
    header = HEADER.pack(MAGIC, key, height, width, _digest(pixels))
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
    if (magic, found) != (MAGIC, key) or not 0 < size <= most_bytes:
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
