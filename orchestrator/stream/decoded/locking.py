"""Lock files: held against other threads and processes, and released with whoever held them, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

POLL_S = 0.0005


@contextmanager
def held(path: Path, patience_s: float = 0.0) -> Iterator[bool]:
    """Hold a lock file while the body runs; yields False when somebody else held it for all of the patience.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        taken = _taken(handle, patience_s)
        try:
            yield taken
        finally:
            if taken:
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do it while a forked child has the file open
    finally:
        os.close(handle)


def _taken(handle: int, patience_s: float) -> bool:
    deadline = monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if monotonic() >= deadline:
                return False
        sleep(POLL_S)
