"""SSH to a head, and the tunnel to its job server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.ray_up.head import Head
from orchestrator.cluster.launch.tunnel import TunnelCommand

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
