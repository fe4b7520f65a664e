"""Ports of this machine's loopback."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"


def usable_port(wanted: int) -> int:
    """Return a port for the job server: the one that is wanted, or another when it is taken."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((LOOPBACK, wanted))
        except OSError:
            return free_port()
    return wanted


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as attempt:
        attempt.bind((LOOPBACK, 0))
        return int(attempt.getsockname()[1])
