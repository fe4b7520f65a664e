"""Local files and folders that are there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from time import monotonic, sleep
from uuid import uuid4

from orchestrator.config.errors import ConfigError
from orchestrator.storage.retry import StorageError


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """Lend a free path beside the target that becomes the target when all went well, and vanishes otherwise.

    Args:
        target: a file or folder that does not exist; an empty folder may.

    Raises:
        ConfigError: the target exists.
        StorageError: it cannot be written.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(f"{target}: exists already; name another place, or remove it.")
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if target.is_dir() and draft.is_file():
            target.rmdir()
        draft.replace(target)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error.strerror or error}).") from error
    finally:
        if draft.is_dir():
            rmtree(draft, ignore_errors=True)
        draft.unlink(missing_ok=True)


# Folders on this machine that are this user's alone, and where caches go.


def cache_home() -> Path:
    """Return the folder for what can be made again, as the XDG base directory specification has it."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "fuseray"


def make_private(folder: Path) -> None:
    """Make a folder with mode 0700, or see to it that one that is there is private.

    Raises:
        OSError: it cannot be made, is no folder, or belongs to someone else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is a link, not a folder")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


# Files of this user alone: what this machine remembers of clusters and jobs.


def state_home() -> Path:
    """Return the folder in which Fuseray remembers, as the XDG base directory specification has it."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "fuseray"


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    draft = path.with_name(f".{uuid4().hex}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# Files of this user alone, and locks on them: held against other threads and processes, and never for ever.


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
