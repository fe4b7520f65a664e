"""Reading exactly the bytes asked for.

An S3 client may be sent fewer bytes than it asked for, with a Content-Length that agrees. pyarrow's client (25.0) does
not notice: it hands out its buffer as if it were full, and the end of it is whatever lay in memory. So the last byte of
our own buffer is marked before it is filled; a mark that is still there after two reads with different marks was never
written over.
"""

from __future__ import annotations

import pyarrow as pa

from orchestrator.storage.faults import ShortRead

MARKS = (0xA5, 0x5A)


def read_exactly(file: pa.NativeFile, start: int, stop: int) -> memoryview:
    """Return bytes `start` to `stop` (exclusive) of a file that has them; safe in many threads at once.

    Raises:
        ShortRead: fewer bytes came.
        OSError: the read failed.
    """
    size = stop - start
    if size <= 0:
        return memoryview(b"")
    buffer = memoryview(pa.allocate_buffer(size)).cast("B")
    for mark in MARKS:
        buffer[-1] = mark
        came = file.get_stream(start, size).readinto(buffer)
        if came == size and buffer[-1] != mark:
            return buffer.toreadonly()
    raise ShortRead(f"fewer than {size} bytes came")
