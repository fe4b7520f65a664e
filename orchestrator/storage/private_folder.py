"""Folders on this machine that are this user's alone, and where caches go."""

from __future__ import annotations

import os
import stat
from pathlib import Path


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
