"""An MLflow server that can be frozen, killed and started again on the same port."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from processes import free_ports, program, running

QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

PATIENCE_S = 240.0
"""It imports for seconds on an idle machine, and for longer beside other work."""


@dataclass(slots=True)
class MlflowServer:
    """A server with a store that outlives it.

    Args:
        store: URI of its backend store.
        artifacts: where it keeps files.
        folder: for its log.
        environment: further variables of its process.
        port: that it listens on.
        address: where it listens.
    """

    store: str
    artifacts: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=lambda: free_ports(1)[0])
    address: str = "127.0.0.1"
    _group: int = 0
    _running: ExitStack = field(default_factory=ExitStack)

    @property
    def uri(self) -> str:
        """Its address."""
        return f"http://{self.address}:{self.port}"

    def start(self) -> None:
        """Start it; returns when it answers."""
        command = [program("mlflow"), "server", "--host", self.address, "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", self.store, "--artifacts-destination", self.artifacts]
        environment = {**QUIET, **self.environment}
        server = running(command, environment, self.folder / "mlflow-server.log", self._ask, PATIENCE_S)
        self._group = self._running.enter_context(server)

    def kill(self) -> None:
        """End it without warning; nothing listens on its port then."""
        self._running.close()

    def freeze(self) -> None:
        """Let it take connections and answer none."""
        os.killpg(self._group, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on, with the requests that came meanwhile."""
        os.killpg(self._group, signal.SIGCONT)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=5)
        connection.request("GET", "/health")
        connection.getresponse()
        connection.close()


@contextmanager
def mlflow_server(
    store: str,
    artifacts: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
) -> Iterator[MlflowServer]:
    """Run a server.

    Args:
        store: URI of its backend store.
        artifacts: where it keeps files.
        folder: for its log.
        environment: further variables of its process.
        address: where it listens.
    """
    server = MlflowServer(store, artifacts, folder, environment or {}, address=address)
    server.start()
    try:
        yield server
    finally:
        server.kill()
