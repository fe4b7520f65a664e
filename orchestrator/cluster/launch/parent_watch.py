"""Runs a program that ends when its parent does: `parent_watch.py COMMAND ...`, run by path, not imported.

It runs the command in a session of its own, where a Ctrl-C at the terminal does not reach it, and ends it as soon as
its own standard input closes, which the kernel does even for a parent that was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE_S = 5.0


def main() -> None:
    """Run the command and exit with its exit code."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_parent, args=(command,), daemon=True).start()
    code = command.wait()
    os._exit(code if code >= 0 else 128 - code)


def _end_with_parent(command: subprocess.Popen[bytes]) -> None:
    os.read(0, 1)
    _signal_group(command, signal.SIGTERM)
    try:
        command.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        _signal_group(command, signal.SIGKILL)


def _signal_group(command: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(command.pid, number)


if __name__ == "__main__":
    main()
