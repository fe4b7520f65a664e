"""Files and folders on this machine: atomic writes, private files, cache and state folders, file locks."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from time import monotonic, sleep
from uuid import uuid4

from platformdirs.unix import Unix

from orchestrator.config.errors import ConfigError
from orchestrator.storage.retry import StorageError

LOCK_POLL_S = 0.0005


@contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to the target; it is renamed to the target at the end, or removed after an error.

    Args:
        target: a file, which may exist, or a folder that does not exist or is empty.

    Raises:
        OSError: the target cannot be replaced.
    """
    draft = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        yield draft
        draft.replace(target)
    finally:
        if draft.is_dir():
            rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)


@contextmanager
def create_atomically(target: Path) -> Iterator[Path]:
    """Like `replace_atomically`, for output that must not overwrite anything; missing parent folders are created.

    Args:
        target: a file or folder that does not exist; an empty folder may.

    Raises:
        ConfigError: the target exists.
        StorageError: it cannot be written.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(f"{target}: exists already; name another path, or remove it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(target) as draft:
            yield draft
            if target.is_dir() and draft.is_file():
                target.rmdir()
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error.strerror or error}).") from error


def write_atomically(target: Path, parts: Iterable[bytes | memoryview], mode: int = 0o666) -> None:
    """Write a file durably (fsync): readers see the old content or the new, never a part.

    Args:
        target: the file, in a folder that exists.
        parts: the content, in one piece or several.
        mode: permissions of the file, less those that the umask withholds.

    Raises:
        OSError: it cannot be written; an old file is unchanged.
    """
    with (
        replace_atomically(target) as draft,
        open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file,
    ):
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def write_private(path: Path, text: str) -> None:
    """Write a file atomically that only this user can read (mode 0600).

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, [text.encode()], mode=0o600)


def open_private(path: Path) -> int:
    """Open a file for reading and writing, creating it with mode 0600; a symbolic link is refused.

    Raises:
        OSError: it cannot be opened.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def make_private(folder: Path) -> None:
    """Create a folder with mode 0700, or set that mode on an existing one.

    Raises:
        OSError: it cannot be created, is not a folder, or belongs to another user.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{folder} is a link, not a folder")
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)


def cache_home() -> Path:
    """Return the folder for data that can be recreated: XDG_CACHE_HOME/fuseray (XDG base directory specification)."""
    return Unix("fuseray").user_cache_path


def state_home() -> Path:
    """Return the folder for this machine's state: XDG_STATE_HOME/fuseray (XDG base directory specification)."""
    return Unix("fuseray").user_state_path


@contextmanager
def try_lock(path: Path, timeout_s: float = 0.0) -> Iterator[bool]:
    """Hold an exclusive lock file during the body; yields False when it could not be acquired within the timeout.

    The lock excludes other threads and processes. The kernel releases it when its holder dies.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = open_private(path)
    try:
        acquired = _acquire(handle, timeout_s)
        try:
            yield acquired
        finally:
            if acquired:
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing would not do it while a forked child has the file open
    finally:
        os.close(handle)


def try_lock_until_exit(path: Path) -> tuple[int, bool]:
    """Try to lock a file exclusively until this process ends.

    Callers must not run this concurrently, and call `downgrade_to_shared` once they have used their exclusive access.

    Returns:
        The open file's handle, and whether the lock was acquired.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = open_private(path)
    return handle, _acquire(handle, 0.0)


def downgrade_to_shared(handle: int) -> None:
    """Turn a file's exclusive lock, or none, into a shared lock.

    Raises:
        OSError: another process holds it exclusively.
    """
    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _acquire(handle: int, timeout_s: float) -> bool:
    deadline = monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if monotonic() >= deadline:
                return False
        sleep(LOCK_POLL_S)
