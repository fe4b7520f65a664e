"""Server processes that start on free ports and leave nothing behind, and what processes show while they live."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

Shown = TypeVar("Shown")

POLL_S = 0.05

PORTS = range(20_000, 32_000)
"""Ports that Linux gives nobody by itself, neither a connection nor a listener that takes any, and Ray no worker."""

_handed_out: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on, each of them once, so that none is taken before it is used."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_own_ports())
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            found.append(port)
    return found


def _own_ports() -> range:
    """Return the ports of this process alone among those that share the tests out."""
    number, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return PORTS[int(number.removeprefix("gw")) :: count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("", port))
        return True
    return False


def shown_by(processes: Iterable[psutil.Process], look: Callable[[psutil.Process], Shown]) -> list[Shown]:
    """Return what processes show; those that have ended since they were listed show nothing."""
    found: list[Shown] = []
    for process in processes:
        with suppress(psutil.Error, OSError):
            found.append(look(process))
    return found


def command_lines(processes: Iterable[psutil.Process]) -> list[str]:
    """Return the command lines of those of some processes that live."""
    return shown_by(processes, lambda process: " ".join(process.cmdline()))


def lives(process: psutil.Process) -> bool:
    """Return whether a process, and not another one that has got its id, has not ended."""
    return shown_by([process], lambda one: one.is_running() and one.status() != psutil.STATUS_ZOMBIE) == [True]


def program(name: str) -> str:
    """Return the path of a program of this Python environment.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name}: no such program; install the extra `test`.")
    return found


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    ready: Callable[[], object],
    patience_s: float = 240,
    ending: signal.Signals = signal.SIGKILL,
    user: str | None = None,
) -> Iterator[int]:
    """Run a server process in a process group of its own; inside, it is ready. Yields its id, which is the group's.

    Args:
        command: program and arguments.
        environment: variables beside this process's own.
        log: takes what the server says.
        ready: raises as long as the server does not answer.
        patience_s: how long it may take to start.
        ending: the signal that ends the group.
        user: whom it runs as, when not as this process's user.

    Raises:
        RuntimeError: the server ended or did not answer in time.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
            user=user,
        )
        try:
            _await(process, ready, log, patience_s)
            yield process.pid
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, ending)
            process.wait()


def _await(process: subprocess.Popen[bytes], ready: Callable[[], object], log: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            ready()
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} is not ready: {error}\n{_end_of(log)}") from error
            time.sleep(POLL_S)


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
