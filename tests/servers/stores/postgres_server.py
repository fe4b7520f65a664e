"""PostgreSQL from the `pgserver` wheel, which brings the programs; run as nobody when the tests run as root."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
from processes import free_ports, running

USER = "fuseray"
UNPRIVILEGED = "nobody"
FAST = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB")


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server.

    Args:
        port: of the loopback interface.
        password: of its one user.
    """

    port: int
    password: str = field(repr=False)

    def uri(self, database: str) -> str:
        """Return the address of a database, password included."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def make_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.uri("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.uri(name)


@contextmanager
def postgres() -> Iterator[PostgresServer]:
    """Run PostgreSQL on the loopback interface with a fresh password; its data is gone afterwards."""
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    with TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        programs = _programs(folder)
        server = PostgresServer(free_ports(1)[0], f"{secrets.token_hex(8)}%40pass")
        _initialise(folder, programs, server, user)
        listening = ("-p", str(server.port), "-h", "127.0.0.1", "-k", "", *FAST)
        command = [str(programs / "postgres"), "-D", str(folder / "data"), *listening]

        def ready() -> None:
            psycopg.connect(server.uri("postgres"), connect_timeout=5).close()

        with running(command, {}, folder / "log", ready, ending=signal.SIGINT, user=user):
            yield server


def _programs(folder: Path) -> Path:
    """Return the folder of the programs, as a copy that every user may run: the environment may be out of reach."""
    spec = find_spec("pgserver")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("pgserver: is not installed; install the extra `test`.")
    packages = Path(spec.origin).parent.parent
    for part in ("pgserver/pginstall", "pgserver.libs"):
        shutil.copytree(packages / part, folder / part, symlinks=True)
    return folder / "pgserver" / "pginstall" / "bin"


def _initialise(folder: Path, programs: Path, server: PostgresServer, user: str | None) -> None:
    folder.chmod(0o755)
    (folder / "data").mkdir(mode=0o700)
    (folder / "password").write_text(server.password.replace("%40", "@"))
    if user is not None:
        shutil.chown(folder / "data", user)
        shutil.chown(folder / "password", user)
    command = [programs / "initdb", "-D", folder / "data", "-U", USER, "--auth=scram-sha-256", "--no-sync"]
    command += [f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--locale=C"]
    done = subprocess.run(command, capture_output=True, text=True, user=user, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"initdb failed: {done.stderr}")
