"""The folder for Ray's temporary files on this machine, short enough for the paths of its sockets."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.config.errors import ConfigError

DEFAULT_FOLDER = Path("/tmp")  # noqa: S108

LONGEST_SOCKET_PATH = 107 if sys.platform.startswith("linux") else 103
"""In bytes: `sun_path` without its closing zero, in unix(7)."""

SOCKET = "ray/session_2026-12-31_23-59-59_999999_4194304/sockets/plasma_store"
"""The longest path of a socket below the folder; a session's name ends with the id of its process."""

LONGEST_FOLDER = LONGEST_SOCKET_PATH - len(f"/{SOCKET}")
"""In bytes."""


def ray_folder(variables: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which Ray makes its temporary folder.

    Args:
        variables: the environment's.
    """
    configured = variables.get("RAY_TMPDIR") or (sys.platform.startswith("linux") and variables.get("TMPDIR"))
    return Path(configured) if configured else DEFAULT_FOLDER


def has_room_for_sockets(folder: Path) -> bool:
    """Return whether Ray's sockets can be made below a folder."""
    return len(os.fsencode(folder)) <= LONGEST_FOLDER


def too_long(folder: Path) -> str:
    """Return in words that a folder is too long for Ray's sockets."""
    return (
        f"the temporary folder {folder} has {len(os.fsencode(folder))} bytes, with which the paths of Ray's "
        f"sockets would exceed the {LONGEST_SOCKET_PATH} bytes that the system allows"
    )


def refuse_long_folder(folder: Path) -> None:
    """Refuse to start Ray with a folder that is too long for its sockets.

    Raises:
        ConfigError: it is.
    """
    if not has_room_for_sockets(folder):
        raise ConfigError(f"Ray cannot be started: {too_long(folder)}. {SHORTER}")


SHORTER = f"Set RAY_TMPDIR to an existing folder of at most {LONGEST_FOLDER} bytes on a local disk, such as /tmp."
