"""The token of a cluster of Ray's launcher: a file of this machine that `file_mounts` bring to every node."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cluster.errors import ClusterError

ON_NODES = "~/.ray/auth_token"
OTHERS = 0o077


def token_source(settings: Mapping[str, Any], file: Path) -> Path:
    """Return the file of this machine that becomes the nodes' token.

    Args:
        settings: the cluster's file.
        file: its path, for the message.

    Raises:
        ClusterError: the file mounts none, so the cluster would be open to whoever reaches it.
    """
    mounts: Mapping[str, str] = settings.get("file_mounts") or {}
    for on_node, here in mounts.items():
        if on_node == ON_NODES or on_node.endswith(ON_NODES.removeprefix("~")):
            return Path(here).expanduser()
    raise ClusterError(
        f"{file}: no token is brought to the nodes, so whoever reaches the cluster could run code on it; add "
        f'"{ON_NODES}: {ON_NODES}" to file_mounts and start Ray there with RAY_AUTH_MODE=token.'
    )


def ensure_token(source: Path) -> None:
    """Make a token where there is none.

    Raises:
        ClusterError: others can read the one that is there, or none can be made.
    """
    if source.exists():
        read_token(source)
        return
    try:
        source.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(source, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        raise ClusterError(f"the token {source} cannot be made ({error.strerror}).") from None


def read_token(source: Path) -> str:
    """Return the token.

    Raises:
        ClusterError: it is not there, is empty, or others can read it.
    """
    try:
        mode = source.stat().st_mode
        token = source.read_text().strip()
    except OSError as error:
        raise ClusterError(
            f"the cluster's token {source} cannot be read ({error.strerror}); copy it from the machine that started "
            "the cluster."
        ) from None
    if mode & OTHERS:
        raise ClusterError(f"others can read the cluster's token {source}; run: chmod 600 {source}")
    if not token:
        raise ClusterError(f"the cluster's token {source} is empty; copy it from the machine that started the cluster.")
    return token
