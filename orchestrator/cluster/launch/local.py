"""Starting, reaching and ending a cluster of this machine alone."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.launcher import (
    LOOPBACK,
    JobServer,
    check_server,
    free_port,
    http_status,
    locked,
    state_folder,
    usable_port,
)
from orchestrator.config.cluster import MACHINE_LABEL, MARKET_LABEL, Cluster
from orchestrator.storage.local_files import write_private

KEPT_LINES = 5
LONGEST_FOLDER = 36
"""Characters; Ray's sockets, deep inside, may have 107."""


class LocalLauncher:
    """A Ray of this machine that outlives the terminal it was started from.

    Args:
        cluster: what its file asks for.
        patience: how long its processes may take.
    """

    def __init__(self, cluster: Cluster, patience: Patience | None = None) -> None:
        self._cluster = cluster
        self._patience = patience or Patience()
        self._state = LocalClusterState(state_folder(cluster.name))

    def is_up(self) -> bool:
        """Return whether its job server answers."""
        record = self._state.record()
        return record is not None and http_status(self._state.server(record)) == 200

    def up(self, log: Callable[[str], object]) -> None:
        """Start it, unless it is up; what an earlier start left half done is cleared away first.

        Raises:
            ClusterError: Ray does not start, or one that runs does not answer.
        """
        with locked(self._state.folder):
            record = self._state.record()
            if record and self._runs(record):
                log(f"cluster {self._cluster.name} is up already, at {self._state.server(record).url}")
                return
            if record:
                log("clearing away what an earlier start left")
                self._clear(record)
            self._start(log)

    def down(self, log: Callable[[str], object]) -> None:
        """End its processes, and no other Ray's; remove what they wrote."""
        with locked(self._state.folder):
            record = self._state.record()
            if record is None:
                log(f"cluster {self._cluster.name} is not up")
                return
            self._clear(record)
            log(f"cluster {self._cluster.name} is down")

    @contextmanager
    def connect(self) -> Iterator[JobServer]:
        """Give the job server, which is on this machine.

        Raises:
            ClusterError: it is not up, or does not answer.
        """
        record = self._state.record()
        if record is None or not record.ready:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `fuseray up {self._cluster.file}`."
            )
        server = self._state.server(record)
        check_server(server, self._cluster.name, str(self._state.token_file))
        yield server

    def _runs(self, record: ClusterStart) -> bool:
        """Say whether an earlier start is still good.

        Raises:
            ClusterError: its processes are there but do not answer; jobs may still run there.
        """
        if not record.ready or not cluster_processes(str(record.folder)):
            return False
        if http_status(self._state.server(record)) != 200:
            raise ClusterError(
                f"cluster {self._cluster.name} runs but its job server at port {record.port} does not answer; end it "
                f"with `fuseray down {self._cluster.file}`, which ends its jobs too, and start it again."
            )
        return True

    def _start(self, log: Callable[[str], object]) -> None:
        wanted = wanted_port(self._cluster.settings)
        port = usable_port(wanted)
        if port != wanted:
            log(f"port {wanted} is taken; the job server gets port {port} (dashboard_port in {self._cluster.file})")
        record = ClusterStart(folder=_new_folder(), port=port)
        try:
            self._state.keep(record)
            write_private(self._state.token_file, secrets.token_hex(32))
            record.folder.mkdir(mode=0o700)
            log("starting Ray on this machine")
            self._run_ray(record)
            self._state.keep(replace(record, ready=True))
        except BaseException:
            self._clear(record)
            raise
        log(f"cluster {self._cluster.name} is up, at {self._state.server(record).url}")

    def _run_ray(self, record: ClusterStart) -> None:
        """Start Ray and wait until its job server answers."""
        until_s = time.monotonic() + self._patience.start_s
        log = record.folder / "start.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                start_command(self._cluster, record.folder, record.port),
                env=environment(os.environ, record.folder, self._state.token_file),
                cwd=record.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while process.poll() is None or http_status(self._state.server(record)) != 200:
            if process.poll():
                raise ClusterError(f"Ray does not start on this machine:\n{_end_of(log)}")
            if time.monotonic() > until_s:
                raise ClusterError(
                    f"Ray did not answer within {self._patience.start_s:g} s; see what else keeps this machine busy. "
                    f"It said last:\n{_end_of(log)}"
                )
            time.sleep(LOOK_S)

    def _clear(self, record: ClusterStart) -> None:
        end_processes(str(record.folder), self._patience)
        shutil.rmtree(record.folder, ignore_errors=True)
        self._state.forget()


def _new_folder() -> Path:
    """Return a name for a temporary folder."""
    usual = Path(tempfile.gettempdir())
    base = usual if len(str(usual)) <= LONGEST_FOLDER else Path("/tmp")  # noqa: S108
    return base / f"fuseray-{secrets.token_hex(4)}"


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-KEPT_LINES:])


# How Ray is started on this machine: closed to other machines, with a token, apart from every other Ray here.


DASHBOARD_PORT = 8265


def start_command(cluster: Cluster, folder: Path, port: int) -> list[str]:
    """Return the command that starts Ray.

    Args:
        cluster: what its settings ask for.
        folder: temporary folder of this start; Ray opens its own folder to everybody, so it gets one inside.
        port: of the job server and dashboard.
    """
    settings = cluster.settings
    options = {
        "node-ip-address": LOOPBACK,
        "port": 0,
        "dashboard-host": LOOPBACK,
        "dashboard-port": port,
        "dashboard-agent-listen-port": 0,
        "ray-client-server-port": free_port(),
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": folder / "ray",
        "object-store-memory": _bytes(settings.get("object_store_mb")),
        "num-cpus": _whole(settings.get("cpus")),
        "num-gpus": _whole(settings.get("gpus")),
        "labels": _labels(cluster),
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--include-dashboard=true", *given]


def environment(known: Mapping[str, str], folder: Path, token_file: Path) -> dict[str, str]:
    """Return the variables of the cluster's processes: this process's own, but what they say of some other Ray.

    Args:
        known: this process's variables.
        folder: temporary folder of this start.
        token_file: the file with the token.
    """
    kept = {name: value for name, value in known.items() if not name.startswith("RAY_")}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), known.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without clusters of several machines, Ray stays on the loopback
        "SPT_NOENV": "1",  # or the long names that Ray gives to its processes would overwrite the mark
        MARK: str(folder),
    }


def wanted_port(settings: Mapping[str, Any]) -> int:
    """Return the port that the settings name for the job server, or Ray's own."""
    return int(settings.get("dashboard_port") or DASHBOARD_PORT)


def _whole(count: float | None) -> int | None:
    """Return a count as `ray start` takes it, which is without fractions."""
    return None if count is None else max(0, int(count))


def _labels(cluster: Cluster) -> str | None:
    head = cluster.head
    known = {MACHINE_LABEL: head.machine, MARKET_LABEL: None if head.market == "owned" else head.market}
    return ",".join(f"{name}={value}" for name, value in known.items() if value) or None


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else int(megabytes * 10**6)


# What this machine remembers of its own cluster between two commands.


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStart:
    """One start of a cluster; it is written before anything is started.

    Args:
        folder: temporary folder of this start, whose path also marks its processes.
        port: of the job server and dashboard.
        ready: whether the start came to its end.
    """

    folder: Path
    port: int
    ready: bool = False


class LocalClusterState:
    """The files in a cluster's state folder.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token_file = folder / "token"
        self._file = folder / "local.json"

    def record(self) -> ClusterStart | None:
        """Return what was started last and not ended since.

        Raises:
            ClusterError: the file is damaged.
        """
        try:
            kept = json.loads(self._file.read_text())
            return _record_of(kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{self._file} is damaged ({error}); end the cluster's processes by hand and delete the file."
            ) from None

    def keep(self, record: ClusterStart) -> None:
        """Remember a start."""
        kept = {"folder": str(record.folder), "port": record.port, "ready": record.ready}
        write_private(self._file, json.dumps(kept))

    def server(self, record: ClusterStart) -> JobServer:
        """Return the job server of a start."""
        token = self.token_file.read_text() if self.token_file.exists() else ""
        return JobServer(f"http://127.0.0.1:{record.port}", token)

    def forget(self) -> None:
        """Forget the last start and its token."""
        self.token_file.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)


def _record_of(kept: Mapping[str, Any]) -> ClusterStart:
    return ClusterStart(folder=Path(kept["folder"]), port=int(kept["port"]), ready=bool(kept["ready"]))


# The processes of a cluster on this machine: found by a mark in their environment, which children inherit.


MARK = "FUSERAY_LOCAL_CLUSTER"
"""Variable that holds the cluster's temporary folder in each of its processes."""

LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long processes may take.

    Args:
        start_s: to start and answer.
        end_s: to end when they are asked to.
        kill_s: to be gone when they are killed.
    """

    start_s: float = 120.0
    end_s: float = 5.0
    kill_s: float = 10.0


def cluster_processes(mark: str) -> set[psutil.Process]:
    """Return the living processes of a cluster, without this one: those with the mark, and their descendants."""
    parents: dict[int, int] = {}
    living: dict[int, psutil.Process] = {}
    found: set[int] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            living[process.pid] = process
            parents[process.pid] = process.ppid()
            if process.environ().get(MARK) == mark:
                found.add(process.pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {living[pid] for pid in found - {os.getpid()}}


def end_processes(mark: str, patience: Patience) -> None:
    """End all processes of a cluster: ask them, then kill what is left.

    Raises:
        ClusterError: some cannot be killed.
    """
    known = cluster_processes(mark)
    for process in known:
        with suppress(psutil.Error):
            process.terminate()
    left = _wait(mark, known, patience.end_s, kill=False)
    left = left and _wait(mark, left, patience.kill_s, kill=True)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise ClusterError(f"these processes of the cluster do not end even when killed: {pids}; see what holds them.")


def _wait(mark: str, known: set[psutil.Process], seconds: float, kill: bool) -> set[psutil.Process]:
    """Wait for processes to be gone; return those that are not, with what they started meanwhile."""
    until_s = time.monotonic() + seconds
    while left := {process for process in known if _lives(process)} | cluster_processes(mark):
        for process in left if kill else ():
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > until_s:
            break
        known = left
        time.sleep(LOOK_S)
    return left


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
