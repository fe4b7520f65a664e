"""Server processes that start on free ports of the loopback interface and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

POLL_S = 0.05


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


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
    patience_s: float = 60,
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
