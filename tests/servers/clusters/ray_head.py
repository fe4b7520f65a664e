"""A head of Ray with a token and a job server, whose Python environment lacks this project.

It has its own home, token and temporary folder, and listens on the loopback alone.
"""

from __future__ import annotations

import os
import secrets
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from processes import free_ports, running

STORE_BYTES = 100 * 2**20
PATIENCE_S = 240.0


@dataclass(frozen=True, slots=True)
class RayHead:
    """The head.

    Args:
        url: of its job server.
        port: of its job server.
        token: Ray's token.
        folder: its home.
    """

    url: str
    port: int
    token: str
    folder: Path


@contextmanager
def ray_head(cpus: int = 2) -> Iterator[RayHead]:
    """Run a head; inside, its job server answers."""
    with TemporaryDirectory(prefix="h-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        token = secrets.token_hex(32)
        (folder / "token").write_text(token)
        gcs, dashboard, agent, client = free_ports(4)
        options = {
            "node-ip-address": "127.0.0.1",
            "port": gcs,
            "dashboard-host": "127.0.0.1",
            "dashboard-port": dashboard,
            "dashboard-agent-listen-port": agent,
            "ray-client-server-port": client,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "temp-dir": folder / "ray",
            "object-store-memory": STORE_BYTES,
            "num-cpus": cpus,
        }
        python = _bare_python(folder / "python")
        started = [str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard=true"]
        command = ["env", *_unset(), *started, *(f"--{key}={value}" for key, value in options.items())]
        head = RayHead(f"http://127.0.0.1:{dashboard}", dashboard, token, folder)
        with running(
            command,
            _environment(folder, python),
            folder / "log",
            lambda: _ask(head),
            PATIENCE_S,
        ):
            yield head


def _bare_python(folder: Path) -> Path:
    """Return a Python that has the installed libraries, but no project that is installed as a link to its checkout."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def _environment(folder: Path, python: Path) -> Mapping[str, str]:
    return {
        "HOME": str(folder),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
    }


def _unset() -> list[str]:
    """Return what keeps this process's own Python path and Ray out of the head."""
    names = [name for name in os.environ if name.startswith(("RAY_", "PYTHON", "COVERAGE"))]
    kept = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED", "RAY_prestart_worker_first_driver"}
    return [word for name in sorted({*names} - kept) for word in ("-u", name)]


def _ask(head: RayHead) -> None:
    connection = HTTPConnection("127.0.0.1", head.port, timeout=5)
    try:
        connection.request("GET", "/api/jobs/", headers={"Authorization": f"Bearer {head.token}"})
        assert connection.getresponse().status == 200
    finally:
        connection.close()
