"""One decoded image in a file: a header and the pixels, which are used only if they are what the header promises."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""An image, [H, W, 3]."""

MAGIC = b"decoded1"
HEADER = struct.Struct("<8s32sIIQ8x")
"""Magic, key, height, width, checksum."""

CHANNELS = 3
BLOCK_BYTES = 4096
FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


def check_pixels(pixels: Pixels) -> None:
    """Refuse what is no image.

    Raises:
        ValueError: what was given instead.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != CHANNELS or not pixels.flags.c_contiguous:
        raise ValueError(f"decoded images must be contiguous uint8 [H, W, 3], not {pixels.dtype} {list(pixels.shape)}")


def entry_bytes(pixels: Pixels) -> int:
    """Return the room that an entry takes: its file in whole blocks, and a block for its name and its record."""
    return -(-(HEADER.size + pixels.nbytes) // BLOCK_BYTES) * BLOCK_BYTES + BLOCK_BYTES


def write_entry(handle: int, key: bytes, pixels: Pixels) -> None:
    """Write an entry into an open file.

    Raises:
        OSError: not all of it could be written.
    """
    height, width, _ = pixels.shape
    header = HEADER.pack(MAGIC, key, height, width, _checksum(pixels))
    if os.writev(handle, [header, pixels.data]) != HEADER.size + pixels.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_entry(path: Path, key: bytes) -> Pixels | None:
    """Return the pixels of an entry, in memory of their own; None when there is none, or a damaged one.

    Read, not mapped: a disk that fails is an error here and would kill the process there.

    Raises:
        OSError: the disk is failing.
    """
    try:
        handle = os.open(path, os.O_RDONLY | FLAGS)
    except FileNotFoundError:
        return None
    with open(handle, "rb", buffering=0) as file:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        magic, found, height, width, checksum = HEADER.unpack(header)
        size = os.fstat(handle).st_size - HEADER.size
        if (magic, found) != (MAGIC, key) or size != height * width * CHANNELS:
            return None
        pixels = np.empty((height, width, CHANNELS), dtype=np.uint8)
        complete = file.readinto(pixels.reshape(-1).data) == size
    return pixels if complete and _checksum(pixels) == checksum else None


def _checksum(pixels: Pixels) -> int:
    """Return the sum of an image's 64-bit words: it finds flipped, missing and zeroed bytes at the speed of memory."""
    flat = pixels.reshape(-1)
    whole = flat.size // 8 * 8
    words = int(np.add.reduce(flat[:whole].view("<u8"), dtype=np.uint64))
    return (words + int.from_bytes(flat[whole:].tobytes(), "little")) % 2**64
