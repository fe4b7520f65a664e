"""Starting, reaching and ending a cluster of this machine alone."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.job_server import check_server, status_of
from orchestrator.cluster.launch.launcher import JobServer
from orchestrator.cluster.launch.local.processes import LOOK_S, Patience, end_processes, members
from orchestrator.cluster.launch.local.ray_head import environment, start_command, wanted_port
from orchestrator.cluster.launch.local.record import Memory, Record
from orchestrator.cluster.launch.ports import usable_port
from orchestrator.cluster.launch.state import locked, state_folder
from orchestrator.config.cluster import Cluster
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
        self._memory = Memory(state_folder(cluster.name))

    def is_up(self) -> bool:
        """Return whether its job server answers."""
        record = self._memory.record()
        return record is not None and status_of(self._memory.server(record)) == 200

    def up(self, say: Callable[[str], object]) -> None:
        """Start it, unless it is up; what an earlier start left half done is cleared away first.

        Raises:
            ClusterError: Ray does not start, or one that runs does not answer.
        """
        with locked(self._memory.folder):
            record = self._memory.record()
            if record and self._runs(record):
                say(f"cluster {self._cluster.name} is up already, at {self._memory.server(record).url}")
                return
            if record:
                say("clearing away what an earlier start left")
                self._clear(record)
            self._start(say)

    def down(self, say: Callable[[str], object]) -> None:
        """End its processes, and no other Ray's; remove what they wrote."""
        with locked(self._memory.folder):
            record = self._memory.record()
            if record is None:
                say(f"cluster {self._cluster.name} is not up")
                return
            self._clear(record)
            say(f"cluster {self._cluster.name} is down")

    @contextmanager
    def reach(self) -> Iterator[JobServer]:
        """Give the job server, which is on this machine.

        Raises:
            ClusterError: it is not up, or does not answer.
        """
        record = self._memory.record()
        if record is None or not record.ready:
            raise ClusterError(
                f"cluster {self._cluster.name} is not up; start it with `fuseray up {self._cluster.file}`."
            )
        server = self._memory.server(record)
        check_server(server, self._cluster.name, str(self._memory.token_file))
        yield server

    def _runs(self, record: Record) -> bool:
        """Say whether an earlier start is still good.

        Raises:
            ClusterError: its processes are there but do not answer; jobs may still run there.
        """
        if not record.ready or not members(str(record.folder)):
            return False
        if status_of(self._memory.server(record)) != 200:
            raise ClusterError(
                f"cluster {self._cluster.name} runs but its job server at port {record.port} does not answer; end it "
                f"with `fuseray down {self._cluster.file}`, which ends its jobs too, and start it again."
            )
        return True

    def _start(self, say: Callable[[str], object]) -> None:
        wanted = wanted_port(self._cluster.settings)
        port = usable_port(wanted)
        if port != wanted:
            say(f"port {wanted} is taken; the job server gets port {port} (dashboard_port in {self._cluster.file})")
        record = Record(folder=_new_folder(), port=port)
        try:
            self._memory.keep(record)
            write_private(self._memory.token_file, secrets.token_hex(32))
            record.folder.mkdir(mode=0o700)
            say("starting Ray on this machine")
            self._run_ray(record)
            self._memory.keep(replace(record, ready=True))
        except BaseException:
            self._clear(record)
            raise
        say(f"cluster {self._cluster.name} is up, at {self._memory.server(record).url}")

    def _run_ray(self, record: Record) -> None:
        """Start Ray and wait until its job server answers."""
        until_s = time.monotonic() + self._patience.start_s
        log = record.folder / "start.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                start_command(self._cluster, record.folder, record.port),
                env=environment(os.environ, record.folder, self._memory.token_file),
                cwd=record.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while process.poll() is None or status_of(self._memory.server(record)) != 200:
            if process.poll():
                raise ClusterError(f"Ray does not start on this machine:\n{_end_of(log)}")
            if time.monotonic() > until_s:
                raise ClusterError(
                    f"Ray did not answer within {self._patience.start_s:g} s; see what else keeps this machine busy. "
                    f"It said last:\n{_end_of(log)}"
                )
            time.sleep(LOOK_S)

    def _clear(self, record: Record) -> None:
        end_processes(str(record.folder), self._patience)
        shutil.rmtree(record.folder, ignore_errors=True)
        self._memory.forget()


def _new_folder() -> Path:
    """Return a name for a temporary folder."""
    usual = Path(tempfile.gettempdir())
    base = usual if len(str(usual)) <= LONGEST_FOLDER else Path("/tmp")  # noqa: S108
    return base / f"fuseray-{secrets.token_hex(4)}"


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").strip().splitlines()[-KEPT_LINES:])
