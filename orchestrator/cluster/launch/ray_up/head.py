"""Where the head of a cluster is, asked of Ray's launcher in a process of its own: it may hang or print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import orchestrator
from orchestrator.cluster.errors import ClusterError
from orchestrator.config.cluster import Cluster

CHILD = "orchestrator.cluster.launch.ray_up.head_child"
ANSWER_S = 90.0
KEPT_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head, and how to log in there.

    Args:
        address: as this machine reaches it.
        user: who logs in.
        key: file with the private key; None for the keys that ssh finds by itself.
        proxy: command that ssh reaches it through; None for none.
    """

    address: str
    user: str
    key: Path | None
    proxy: str | None


def find_head(cluster: Cluster, folder: Path) -> Head | None:
    """Return the head of a cluster, None when there is none.

    Args:
        cluster: a cluster of Ray's launcher.
        folder: where Ray keeps what it worked out of the cluster's file; see `launcher_variables`.

    Raises:
        ClusterError: Ray cannot say.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-m", CHILD, str(cluster.file)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
            env=os.environ | launcher_variables(folder) | {"PYTHONPATH": _python_path()},
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"cluster {cluster.name}: nobody said within {ANSWER_S:g} s where its head is; see whether the network and "
            "the provider of its machines are there."
        ) from None
    return _head(cluster, ran)


def launcher_variables(folder: Path) -> dict[str, str]:
    """Return variables for programs of Ray's launcher: their temporary files, secrets among them, stay in a folder."""
    return {"TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}


def _head(cluster: Cluster, ran: subprocess.CompletedProcess[str]) -> Head | None:
    lines = ran.stdout.splitlines()
    if ran.returncode != 0 or not lines:
        words = "\n".join((ran.stderr.strip() or ran.stdout.strip()).splitlines()[-KEPT_LINES:])
        raise ClusterError(f"cluster {cluster.name}: Ray cannot say where its head is:\n{words}")
    answer = json.loads(lines[-1])
    if "error" in answer:
        raise ClusterError(f"cluster {cluster.name}: Ray cannot say where its head is: {answer['error']}")
    if answer["address"] is None:
        return None
    auth = answer["auth"]
    key = auth.get("ssh_private_key")
    return Head(
        address=answer["address"],
        user=auth["ssh_user"],
        key=Path(key).expanduser() if key else None,
        proxy=auth.get("ssh_proxy_command"),
    )


def _python_path() -> str:
    root = str(Path(orchestrator.__file__).parents[1])
    known = os.environ.get("PYTHONPATH")
    return os.pathsep.join([root, known] if known else [root])
