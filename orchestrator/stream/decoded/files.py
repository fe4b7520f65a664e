"""Files of this user alone, and locks on them: held against other threads and processes, and never for ever."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

POLL_S = 0.0005


def open_private(path: Path) -> int:
    """Open a file to read and write; it is made with mode 0600 if it is not there. A link is refused.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextmanager
def held(path: Path, patience_s: float = 0.0) -> Iterator[bool]:
    """Hold a lock file while the body runs; yields False when somebody else held it for all of the patience.

    The system releases it when its holder dies.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = open_private(path)
    try:
        taken = _taken(handle, patience_s)
        try:
            yield taken
        finally:
            if taken:
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do it while a forked child has the file open
    finally:
        os.close(handle)


def hold_for_good(path: Path) -> tuple[int, bool]:
    """Join those who hold a file together, until this process ends; return its handle and whether nobody else does.

    Whoever calls it keeps others from doing so at the same time, and calls `share` when it has made use of being alone.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = open_private(path)
    return handle, _taken(handle, 0.0)


def share(handle: int) -> None:
    """Let others hold a file too.

    Raises:
        OSError: somebody holds it alone.
    """
    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


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
