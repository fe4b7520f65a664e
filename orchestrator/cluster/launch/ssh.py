"""SSH to a head, and the tunnel to its job server."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orchestrator
from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.subprocesses import TunnelCommand
from orchestrator.config.cluster import Cluster

REMOTE_PORT = 8265
CONNECT_S = 20
READY = "fuseray-tunnel-is-open"


def ssh_tunnel(head: Head, local_port: int, known_hosts: Path, cluster: str, remote_port: int) -> TunnelCommand:
    """Return the command that forwards a port of the loopback to the head's job server.

    ssh itself prints the ready line (`LocalCommand`), once it has logged in and the port is bound.

    Args:
        head: where to log in.
        local_port: port of this machine's loopback.
        known_hosts: file with the keys of the cluster's hosts.
        cluster: the cluster's name, for messages.
        remote_port: the job server's port on the head's loopback.

    Raises:
        ClusterError: there is no ssh, or no such key.
    """
    saying = {"ExitOnForwardFailure": "yes", "LocalCommand": f"echo {READY}", "PermitLocalCommand": "yes"}
    forward = ["-L", f"127.0.0.1:{local_port}:127.0.0.1:{remote_port}"]
    ssh, *login = ssh_to(head, known_hosts, cluster, saying)
    command = [ssh, "-N", "-T", *login, *forward, "--", head.address]
    return TunnelCommand(command, re.compile(re.escape(READY)), f"the SSH tunnel to the head of cluster {cluster}")


def ssh_to(head: Head, known_hosts: Path, cluster: str, more: Mapping[str, object] | None = None) -> list[str]:
    """Return the beginning of an SSH command to the head; `--`, the head's address and a command may follow.

    It asks no questions. A host that is new is written down; one whose key changed is refused.

    Args:
        head: where to log in.
        known_hosts: file with the keys of the cluster's hosts.
        cluster: the cluster's name, for messages.
        more: further options of ssh.

    Raises:
        ClusterError: there is no ssh, or no such key.
    """
    if shutil.which("ssh") is None:
        raise ClusterError(f"reaching cluster {cluster} needs ssh; install an OpenSSH client.")
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_S,
        "ControlPath": "none",
        "ServerAliveCountMax": 3,
        "ServerAliveInterval": 10,
        "StrictHostKeyChecking": "accept-new",
        "UserKnownHostsFile": f'"{known_hosts}"',
        **(more or {}),
    }
    identity = ["-i", _key(head.key, cluster), "-o", "IdentitiesOnly=yes"] if head.key else []
    proxy = ["-o", f"ProxyCommand={head.proxy}"] if head.proxy else []
    settings = [argument for name, value in options.items() for argument in ("-o", f"{name}={value}")]
    return ["ssh", *settings, *identity, *proxy, "-l", head.user]


def _key(key: Path, cluster: str) -> str:
    if not key.is_file():
        raise ClusterError(
            f"cluster {cluster}: the SSH key {key} is not on this machine; copy it from the machine that started the "
            "cluster."
        )
    return str(key)


# Where the head of a cluster is, asked of Ray's launcher in a process of its own: it may hang or print.


CHILD = "orchestrator.cluster.launch.ray_up_query"
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


# The token of a cluster of Ray's launcher: a file of this machine that `file_mounts` bring to every node.


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
