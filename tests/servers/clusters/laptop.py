"""A user's machine outside the hosts: a home of its own, and a copy of the on-premises file for the hosts."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import preloaded
import yaml
from hosts import CHECKOUT, Hosts
from processes import free_ports, running

SHIPPED = CHECKOUT / "clusters" / "onprem.yaml"
STORE_BYTES = 100 * 2**20
PROGRAMS = sysconfig.get_path("scripts")


@dataclass(frozen=True, slots=True)
class Laptop:
    """Where the user sits.

    Args:
        home: the user's home, with the token of the clusters.
        hosts: what the user can reach.
        variables: further variables of all commands.
    """

    home: Path
    hosts: Hosts
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def token(self) -> str:
        """The token of the clusters, which `fuseray up` made."""
        return (self.home / ".ray" / "auth_token").read_text().strip()

    def cluster_file(self, cpus: int) -> Path:
        """Write the shipped file with what a user has to change, and return where it is.

        Args:
            cpus: that Ray hands out on each host.
        """
        head, *workers = self.hosts.all
        content = yaml.safe_load(SHIPPED.read_text())
        content["cluster_name"] = f"test-{secrets.token_hex(4)}"
        content["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
        content["auth"] |= {"ssh_user": "root", "ssh_private_key": str(self.hosts.key)}
        content["setup_commands"] = [one.replace("/opt/fuseray/bin", PROGRAMS) for one in content["setup_commands"]]
        for group in ("head", "worker"):
            commands = content[f"{group}_start_ray_commands"]
            commands[-1] += f" --num-cpus={cpus} --object-store-memory={STORE_BYTES}"
        path = self.home / "cluster.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def fuseray(self, *words: str, timeout_s: float = 400, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run this checkout's `fuseray` as the user would.

        Raises:
            AssertionError: it failed.
        """
        done = preloaded.fuseray(*words, folder=self.home, environment=self.environment(), timeout_s=timeout_s)
        assert not check or done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def environment(self) -> dict[str, str]:
        """Return the variables of the user's commands, without what this process knows of other clusters."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "AWS_"))}
        own = {
            "PYTHONPATH": str(CHECKOUT),
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }
        return kept | own | dict(self.variables)

    @contextmanager
    def tunnel(self, port: int) -> Iterator[int]:
        """Open a way to a port of the head's loopback interface; yields the port on this side."""
        (near,) = free_ports(1)
        forward = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{near}:127.0.0.1:{port}"]
        ssh, *rest = self.hosts.all[0].ssh()

        def ready() -> None:
            socket.create_connection(("127.0.0.1", near), timeout=1).close()

        with running([ssh, *forward, *rest], {}, self.home / "tunnel.log", ready):
            yield near
