"""SSH to a head: the tunnel to its job server, and commands on the workers by way of the head."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.subprocesses import TunnelCommand

REMOTE_PORT = 8265
CONNECT_S = 20
READY = "fuseray-tunnel-is-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of a cluster, and how to log in there.

    Args:
        address: as this machine reaches it.
        user: the user to log in as.
        key: file with the private key; None for the keys that ssh finds by itself.
        proxy: ssh's ProxyCommand; None for a direct connection.
    """

    address: str
    user: str
    key: Path | None
    proxy: str | None


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
        ClusterError: ssh is not installed, or the key's file does not exist.
    """
    options = {"ExitOnForwardFailure": "yes", "LocalCommand": f"echo {READY}", "PermitLocalCommand": "yes"}
    forward = ["-L", f"127.0.0.1:{local_port}:127.0.0.1:{remote_port}"]
    ssh, *login = ssh_command(head, known_hosts, cluster, options)
    command = [ssh, "-N", "-T", *login, *forward, "--", head.address]
    return TunnelCommand(command, re.compile(re.escape(READY)), f"the SSH tunnel to the head of cluster {cluster}")


def ssh_command(
    head: Head, known_hosts: Path, cluster: str, more_options: Mapping[str, object] | None = None
) -> list[str]:
    """Return the beginning of an SSH command to the head; `--`, the head's address and a command may follow.

    It never prompts. The key of a new host is added to `known_hosts`; a host whose key changed is rejected.

    Args:
        head: where to log in.
        known_hosts: file with the keys of the cluster's hosts.
        cluster: the cluster's name, for messages.
        more_options: further options of ssh.

    Raises:
        ClusterError: ssh is not installed, or the key's file does not exist.
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
        **(more_options or {}),
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


KEY_ON_HEAD = "ray_bootstrap_key.pem"
"""Ray's launcher leaves the key for the workers in the home folder of the head."""

STOP = "bash -lic 'source ~/.bashrc; ray stop' 2>&1"
"""Finds Ray as the launcher's own commands do, in an interactive login shell that reads ~/.bashrc."""

WORKER_CONNECT_S = 10
STOP_S = 60.0
CONCURRENT_STOPS = 32


def stop_workers(workers: Sequence[str], user: str, to_head: Sequence[str], log: Callable[[str], object]) -> None:
    """Stop Ray on all workers, through SSH from the head; without a cloud, `ray down` stops it on the head alone.

    Args:
        workers: their addresses, as the head reaches them.
        user: the user to log in as.
        to_head: the SSH command that runs a command on the head.
        log: takes a line for each worker on which Ray could not be stopped.
    """
    with ThreadPoolExecutor(CONCURRENT_STOPS, thread_name_prefix="stop-worker") as pool:
        errors = pool.map(lambda worker: _stop_worker(worker, user, to_head), workers)
        for worker, error in zip(workers, errors, strict=True):
            if error:
                log(f"{worker}: Ray could not be stopped there ({error}); run `ray stop` on it when it can be reached.")


def _stop_worker(worker: str, user: str, to_head: Sequence[str]) -> str | None:
    """Stop Ray on a worker; return the error, None on success."""
    options = (
        "LogLevel=ERROR",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        f"ConnectTimeout={WORKER_CONNECT_S}",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    )
    flags = [word for option in options for word in ("-o", option)]
    from_head = shlex.join(["ssh", "-i", KEY_ON_HEAD, *flags, "-l", user, "--", worker, STOP])
    try:
        completed = subprocess.run(
            [*to_head, from_head], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=STOP_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {STOP_S:g} s"
    if completed.returncode == 0:
        return None
    lines = (completed.stdout.strip() or completed.stderr.strip()).splitlines()
    return lines[-1] if lines else f"exit code {completed.returncode}"
