"""Where this machine keeps what it knows of clusters: one folder for each, for this user's eyes only."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cluster.errors import ClusterError
from orchestrator.storage.local_files import state_home

SOUND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def state_folder(name: str) -> Path:
    """Return a cluster's folder, made with mode 0700 if it was not there.

    Raises:
        ClusterError: the name cannot be a folder's, or the folder cannot be made.
    """
    if not SOUND_NAME.fullmatch(name):
        raise ClusterError(f"cluster {name!r}: a name has letters, digits, '.', '_' and '-'; change cluster_name.")
    folder = state_home() / "clusters" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ClusterError(
            f"{folder} cannot be made ({error.strerror}); set XDG_STATE_HOME to a folder of yours."
        ) from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes of Fuseray; whoever comes second is refused.

    Raises:
        ClusterError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"cluster {folder.name}: another fuseray is starting or ending it; wait for that one."
            ) from None
        yield
    finally:
        os.close(handle)
