"""What can be done with a cluster, whoever starts its machines."""

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
from orchestrator.storage.local_files import state_home


@dataclass(frozen=True, slots=True)
class JobServer:
    """Where a cluster takes jobs, as this machine reaches it.

    Args:
        url: such as http://127.0.0.1:8265.
        token: Ray's token; it is never printed.
    """

    url: str
    token: str = field(repr=False)


class Launcher(Protocol):
    """Starts, reaches and ends one cluster."""

    def is_up(self) -> bool:
        """Return whether the cluster's head is there.

        Raises:
            ClusterError: nobody can say, for example for want of credentials.
        """
        ...

    def up(self, log: Callable[[str], object]) -> None:
        """Start what is not there yet.

        Args:
            log: is told how it goes.

        Raises:
            ClusterError: it cannot be started; the message says what to do.
        """
        ...

    def down(self, log: Callable[[str], object]) -> None:
        """End all machines; it is no error when there are none."""
        ...

    def connect(self) -> AbstractContextManager[JobServer]:
        """Open the way to the job server, by an SSH tunnel where that is needed, and close it again.

        Raises:
            ClusterError: the cluster is not up, or cannot be reached.
        """
        ...


# Seeing that a cluster's job server answers, and answers only to whoever has its token.


ANSWER_S = 10.0
GUARDED = "/api/version"
"""A page that Ray shows only with the token."""


def check_server(server: JobServer, cluster: str, token_place: str) -> None:
    """See that a job server can be used.

    Args:
        server: as this machine reaches it.
        cluster: the cluster's name.
        token_place: where its token comes from, for the message.

    Raises:
        ClusterError: it does not answer, refuses the token, or does without one.
    """
    complaint = complaint_of(http_status(server), http_status(server, with_token=False), token_place)
    if complaint:
        raise ClusterError(f"cluster {cluster}: {complaint}")


def complaint_of(with_token: int | None, without: int | None, token_place: str) -> str | None:
    """Return what is wrong with a job server, None when nothing is.

    Args:
        with_token: HTTP status of its answer to a request with the token; None for no answer.
        without: the same without the token.
        token_place: where the token comes from.
    """
    if with_token is None:
        return (
            "Ray's job server does not answer; see whether Ray still runs on the head, or start it with `fuseray up`."
        )
    if with_token in (401, 403):
        return f"it refuses the token of {token_place}; put the token there that it was started with."
    if with_token != 200:
        return f"what answers is no job server of Ray (HTTP status {with_token})."
    if without == 200:
        return (
            "it asks for no token, so whoever reaches it can run code on it; start Ray there with RAY_AUTH_MODE=token."
        )
    return None


def http_status(server: JobServer, with_token: bool = True, timeout_s: float = ANSWER_S) -> int | None:
    """Return the HTTP status of a job server's answer, None when there is none."""
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


# Ports of this machine's loopback.


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


# Where this machine keeps what it knows of clusters: one folder for each, for this user's eyes only.


SOUND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def state_folder(name: str) -> Path:
    """Return a cluster's folder, made with mode 0700 if it was not there.

    Raises:
        ClusterError: the name cannot be a folder's, or the folder cannot be made.
    """
    if not SOUND_NAME.fullmatch(name):
        raise ClusterError(f"cluster {name!r}: a name has letters, digits, '.', '_' and '-'; change cluster_name.")
    folder = state_home() / "clusters" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ClusterError(
            f"{folder} cannot be made ({error.strerror}); set XDG_STATE_HOME to a folder of yours."
        ) from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes of Fuseray; whoever comes second is refused.

    Raises:
        ClusterError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"cluster {folder.name}: another fuseray is starting or ending it; wait for that one."
            ) from None
        yield
    finally:
        os.close(handle)
