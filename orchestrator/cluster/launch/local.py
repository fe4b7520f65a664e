"""A cluster of this machine alone: its launcher, the command that starts Ray, its state, and its processes."""

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
from orchestrator.config.commands import command_line
from orchestrator.storage.local_files import write_private
from orchestrator.storage.ray_folder import DEFAULT_FOLDER, has_room_for_sockets

KEPT_LINES = 5


class LocalLauncher:
    """Ray on this machine; it outlives the terminal it was started from.

    Args:
        cluster: the cluster, with the settings of its file.
        timeouts: how long its processes may take.
    """

    def __init__(self, cluster: Cluster, timeouts: Timeouts | None = None) -> None:
        self._cluster = cluster
        self._timeouts = timeouts or Timeouts()
        self._state = LocalClusterState(state_folder(cluster.name))

    def is_up(self) -> bool:
        """Return whether its job server answers."""
        record = self._state.record()
        return record is not None and http_status(self._state.server(record)) == 200

    def up(self, log: Callable[[str], object]) -> None:
        """Start it, unless it is up; what an incomplete start left is removed first.

        Raises:
            ClusterError: Ray does not start, or it runs but does not answer.
        """
        with locked(self._state.folder):
            record = self._state.record()
            if record and self._runs(record):
                log(f"cluster {self._cluster.name} is up already, at {self._state.server(record).url}")
                return
            if record:
                log("removing what an earlier start left")
                self._clear(record)
            self._start(log)

    def down(self, log: Callable[[str], object]) -> None:
        """End its processes, but those of no other Ray, and remove their files."""
        with locked(self._state.folder):
            record = self._state.record()
            if record is None:
                log(f"cluster {self._cluster.name} is not up")
                return
            self._clear(record)
            log(f"cluster {self._cluster.name} is down")

    @contextmanager
    def connect(self) -> Iterator[JobServer]:
        """Yield the job server, which is on this machine.

        Raises:
            ClusterError: the cluster is not up, or the job server does not answer.
        """
        record = self._state.record()
        if record is None or not record.ready:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `{command_line('up', self._cluster.file)}`."
            )
        server = self._state.server(record)
        check_server(server, self._cluster.name, str(self._state.token_file))
        yield server

    def _runs(self, record: ClusterStart) -> bool:
        """Return whether the cluster of an earlier start still runs.

        Raises:
            ClusterError: its processes run but do not answer; jobs may still run there.
        """
        if not record.ready or not cluster_processes(str(record.folder)):
            return False
        if http_status(self._state.server(record)) != 200:
            raise ClusterError(
                f"cluster {self._cluster.name} runs but its job server at port {record.port} does not answer; end it "
                f"with `{command_line('down', self._cluster.file)}`, which ends its jobs too, and start it again."
            )
        return True

    def _start(self, log: Callable[[str], object]) -> None:
        preferred = dashboard_port(self._cluster.settings)
        port = usable_port(preferred)
        if port != preferred:
            log(f"port {preferred} is taken; the job server gets port {port} (dashboard_port in {self._cluster.file})")
        record = ClusterStart(folder=_new_folder(), port=port)
        try:
            self._state.save(record)
            write_private(self._state.token_file, secrets.token_hex(32))
            record.folder.mkdir(mode=0o700)
            log("starting Ray on this machine")
            self._run_ray(record)
            self._state.save(replace(record, ready=True))
        except BaseException:
            self._clear(record)
            raise
        log(f"cluster {self._cluster.name} is up, at {self._state.server(record).url}")

    def _run_ray(self, record: ClusterStart) -> None:
        """Start Ray and wait until its job server answers."""
        deadline_s = time.monotonic() + self._timeouts.start_s
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
                raise ClusterError(f"Ray does not start on this machine:\n{_last_lines(log)}")
            if time.monotonic() > deadline_s:
                raise ClusterError(
                    f"Ray did not answer within {self._timeouts.start_s:g} s; see what else keeps this machine busy. "
                    f"Its last output:\n{_last_lines(log)}"
                )
            time.sleep(POLL_S)

    def _clear(self, record: ClusterStart) -> None:
        end_processes(str(record.folder), self._timeouts)
        shutil.rmtree(record.folder, ignore_errors=True)
        self._state.clear()


def _new_folder() -> Path:
    """Return a path for a new temporary folder."""
    name = f"fuseray-{secrets.token_hex(4)}"
    folder = Path(tempfile.gettempdir()) / name
    return folder if has_room_for_sockets(folder) else DEFAULT_FOLDER / name


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-KEPT_LINES:])


DASHBOARD_PORT = 8265


def start_command(cluster: Cluster, folder: Path, port: int) -> list[str]:
    """Return the command that starts Ray: closed to other machines, with a token, separate from any other Ray here.

    Args:
        cluster: the cluster, with its settings.
        folder: temporary folder of this start; Ray opens its own folder to all users, so it gets one inside.
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
        "num-cpus": _integer(settings.get("cpus")),
        "num-gpus": _integer(settings.get("gpus")),
        "labels": _labels(cluster),
    }
    arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--include-dashboard=true", *arguments]


def environment(variables: Mapping[str, str], folder: Path, token_file: Path) -> dict[str, str]:
    """Return the variables of the cluster's processes: this process's own, without those for another Ray.

    Args:
        variables: this process's variables.
        folder: temporary folder of this start.
        token_file: the file with the token.
    """
    inherited = {name: value for name, value in variables.items() if not name.startswith("RAY_")}
    return inherited | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",  # jobs have an environment of their own, so these would stay unused
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without clusters of several machines, Ray stays on the loopback
        "SPT_NOENV": "1",  # or the long names that Ray gives to its processes would overwrite the mark
        MARK: str(folder),
    }


def dashboard_port(settings: Mapping[str, Any]) -> int:
    """Return the job server's port in the settings, or Ray's default."""
    return int(settings.get("dashboard_port") or DASHBOARD_PORT)


def _integer(count: float | None) -> int | None:
    """Return a count as `ray start` takes it, which is as an integer."""
    return None if count is None else max(0, int(count))


def _labels(cluster: Cluster) -> str | None:
    head = cluster.head
    labels = {MACHINE_LABEL: head.machine, MARKET_LABEL: None if head.market == "owned" else head.market}
    return ",".join(f"{name}={value}" for name, value in labels.items() if value) or None


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else int(megabytes * 10**6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStart:
    """The record of a start of a cluster; it is written before anything is started.

    Args:
        folder: temporary folder of this start, whose path also marks its processes.
        port: of the job server and dashboard.
        ready: whether the start was completed.
    """

    folder: Path
    port: int
    ready: bool = False


class LocalClusterState:
    """The record and the token in a cluster's state folder.

    Args:
        folder: the state folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token_file = folder / "token"
        self._file = folder / "local.json"

    def record(self) -> ClusterStart | None:
        """Return the last start, None when the cluster was shut down since.

        Raises:
            ClusterError: the file is damaged.
        """
        try:
            return _record_of(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{self._file} is damaged ({error}); end the cluster's processes by hand and delete the file."
            ) from None

    def save(self, record: ClusterStart) -> None:
        """Write the record of a start."""
        values = {"folder": str(record.folder), "port": record.port, "ready": record.ready}
        write_private(self._file, json.dumps(values))

    def server(self, record: ClusterStart) -> JobServer:
        """Return the job server of a start."""
        token = self.token_file.read_text() if self.token_file.exists() else ""
        return JobServer(f"http://127.0.0.1:{record.port}", token)

    def clear(self) -> None:
        """Delete the record of the last start, and its token."""
        self.token_file.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)


def _record_of(values: Mapping[str, Any]) -> ClusterStart:
    return ClusterStart(folder=Path(values["folder"]), port=int(values["port"]), ready=bool(values["ready"]))


MARK = "FUSERAY_LOCAL_CLUSTER"
"""Variable that holds the cluster's temporary folder in each of its processes; child processes inherit it."""

POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long the processes of a cluster may take, in seconds.

    Args:
        start_s: to start and answer.
        end_s: to end after SIGTERM.
        kill_s: to end after SIGKILL.
    """

    start_s: float = 120.0
    end_s: float = 5.0
    kill_s: float = 10.0


def cluster_processes(mark: str) -> set[psutil.Process]:
    """Return the running processes of a cluster, without this one: those with the mark, and their descendants."""
    parents: dict[int, int] = {}
    running: dict[int, psutil.Process] = {}
    members: set[int] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            running[process.pid] = process
            parents[process.pid] = process.ppid()
            if process.environ().get(MARK) == mark:
                members.add(process.pid)
    while children := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= children
    return {running[pid] for pid in members - {os.getpid()}}


def end_processes(mark: str, timeouts: Timeouts) -> None:
    """End all processes of a cluster: terminate them, then kill those that are left.

    Raises:
        ClusterError: some cannot be killed.
    """
    processes = cluster_processes(mark)
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    left = _wait(mark, processes, timeouts.end_s, kill=False)
    left = left and _wait(mark, left, timeouts.kill_s, kill=True)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise ClusterError(f"these processes of the cluster do not end even when killed: {pids}; see what holds them.")


def _wait(mark: str, processes: set[psutil.Process], timeout_s: float, kill: bool) -> set[psutil.Process]:
    """Wait for processes to end; return those that have not, with those that they started meanwhile."""
    deadline_s = time.monotonic() + timeout_s
    while left := {process for process in processes if _is_running(process)} | cluster_processes(mark):
        for process in left if kill else ():
            with suppress(psutil.Error):
                process.kill()
        if time.monotonic() > deadline_s:
            break
        processes = left
        time.sleep(POLL_S)
    return left


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
