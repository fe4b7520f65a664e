"""Seeing that a cluster's job server answers, and answers only to whoever has its token."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.launch.launcher import JobServer

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
    complaint = complaint_of(status_of(server), status_of(server, with_token=False), token_place)
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


def status_of(server: JobServer, with_token: bool = True, timeout_s: float = ANSWER_S) -> int | None:
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
