"""Files of this user alone: what this machine remembers of clusters and jobs."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


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
