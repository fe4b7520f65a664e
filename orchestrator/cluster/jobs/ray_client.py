"""Ray's client of the job server, with an end to every wait and errors that a user can act on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from orchestrator.cluster.errors import ClusterError
from orchestrator.cluster.jobs.errors import ConnectionLostError, TokenError, UnknownJobError
from orchestrator.cluster.launch.launcher import JobServer

OTHER_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""

NOT_FOUND = 404


class RayClient(JobSubmissionClient):
    """Asks a job server.

    Args:
        server: the job server.
        answer_s: how long an answer may take.

    Raises:
        ConnectionLostError: it does not answer.
        TokenError: it refuses the token.
    """

    def __init__(self, server: JobServer, answer_s: float) -> None:
        self._answer_s = answer_s
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        with _without(OTHER_ADDRESSES):
            super().__init__(server.url, headers=authorization(server))

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        try:
            return super()._do_request(method, endpoint, timeout=self._answer_s, **options)
        except AuthenticationError as error:
            raise refused(self._address) from error
        except requests.RequestException as error:
            raise lost(self._address, type(error).__name__) from error

    def _raise_error(self, r: Any) -> NoReturn:
        if r.status_code == NOT_FOUND:
            raise UnknownJobError(f"{self._address}: {r.text}")
        last = (r.text.strip() or r.reason).splitlines()[-1]
        raise ClusterError(f"{self._address}: the job server answers {r.status_code}: {last}")


def authorization(server: JobServer) -> dict[str, str]:
    """Return the header that carries the token."""
    return {"Authorization": f"Bearer {server.token}"}


def refused(address: str) -> TokenError:
    """Say that a job server does not take the token."""
    return TokenError(
        f"{address}: the job server refuses the token; whoever started the cluster has the right one, and a cluster "
        "that was started anew has another."
    )


def lost(address: str, how: str) -> ConnectionLostError:
    """Say that a job server does not answer."""
    return ConnectionLostError(f"{address}: the job server does not answer ({how}); is the cluster up?")


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
