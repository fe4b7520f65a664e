"""The interface of all launchers, and what they share: the check of a job server, ports, and the state folder."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from orchestrator.cluster.findings import ClusterError
from orchestrator.storage.local_files import make_private, state_home


@dataclass(frozen=True, slots=True)
class JobServer:
    """Ray's job server of a cluster, as this machine reaches it.

    Args:
        url: such as http://127.0.0.1:8265.
        token: Ray's token; it is never printed.
    """

    url: str
    token: str = field(repr=False)


class Launcher(Protocol):
    """Starts one cluster, connects to it, and shuts it down."""

    def is_up(self) -> bool:
        """Return whether the cluster has a head.

        Raises:
            ClusterError: this cannot be found out, for example without credentials.
        """
        ...

    def up(self, log: Callable[[str], object]) -> None:
        """Start what does not run yet.

        Args:
            log: takes lines of progress.

        Raises:
            ClusterError: it cannot be started; the message says what to do.
        """
        ...

    def down(self, log: Callable[[str], object]) -> None:
        """Shut down all machines; it is not an error when there are none."""
        ...

    def connect(self) -> AbstractContextManager[JobServer]:
        """Connect to the job server, through a tunnel where one is needed, while the body runs.

        Raises:
            ClusterError: the cluster is not up, or cannot be reached.
        """
        ...


ANSWER_S = 10.0
GUARDED = "/api/version"
"""A page that Ray serves only with the token."""


def check_server(server: JobServer, cluster: str, token_source: str) -> None:
    """Check that a job server answers and requires its token.

    Args:
        server: as this machine reaches it.
        cluster: the cluster's name.
        token_source: where its token comes from, for the message.

    Raises:
        ClusterError: it does not answer, refuses the token, or does not require one.
    """
    problem = server_problem(http_status(server), http_status(server, with_token=False), token_source)
    if problem:
        raise ClusterError(f"cluster {cluster}: {problem}")


def server_problem(with_token: int | None, without_token: int | None, token_source: str) -> str | None:
    """Return what is wrong with a job server and how to fix it, None when nothing is.

    Args:
        with_token: HTTP status of its answer to a request with the token; None for no answer.
        without_token: the same without the token.
        token_source: where the token comes from.
    """
    if with_token is None:
        return "Ray's job server does not answer; see whether Ray runs on the head, `fuseray up CLUSTER` starts it."
    if with_token in (401, 403):
        return f"it refuses the token of {token_source}; put the token there that it was started with."
    if with_token != 200:
        return f"what answers is not Ray's job server (HTTP status {with_token})."
    if without_token == 200:
        return (
            "it requires no token, so anyone who reaches it can run code on it; start Ray there with "
            "RAY_AUTH_MODE=token."
        )
    return None


def http_status(server: JobServer, with_token: bool = True, timeout_s: float = ANSWER_S) -> int | None:
    """Return the HTTP status of a job server's answer, None when it does not answer."""
    parts = urlsplit(server.url)
    headers = {"Authorization": f"Bearer {server.token}"} if with_token else {}
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", GUARDED, headers=headers)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


LOOPBACK = "127.0.0.1"


def usable_port(preferred: int) -> int:
    """Return a port for the job server: the preferred one, or another when that is taken."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((LOOPBACK, preferred))
        except OSError:
            return free_port()
    return preferred


def free_port() -> int:
    """Return a free port of the loopback."""
    with socket.socket() as attempt:
        attempt.bind((LOOPBACK, 0))
        return int(attempt.getsockname()[1])


VALID_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def state_folder(name: str) -> Path:
    """Return a cluster's state folder, made with mode 0700 if it does not exist.

    Raises:
        ClusterError: the name is not valid as a folder's, or the folder cannot be made.
    """
    if not VALID_NAME.fullmatch(name):
        raise ClusterError(f"cluster {name!r}: a name has letters, digits, '.', '_' and '-'; change cluster_name.")
    folder = state_home() / "clusters" / name
    try:
        make_private(folder)
    except OSError as error:
        raise ClusterError(
            f"{folder} cannot be made ({error.strerror or error}); set XDG_STATE_HOME to a folder of yours."
        ) from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a state folder against other processes of Fuseray while the body runs, without waiting.

    Raises:
        ClusterError: another process holds the lock.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"cluster {folder.name}: another fuseray is starting or ending it; wait for it to finish."
            ) from None
        yield
    finally:
        os.close(handle)
