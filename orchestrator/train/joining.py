"""Joining a Ray cluster with its token, or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from socket import create_connection

from orchestrator.config.errors import FuserayError

CONNECT_S = 10.0
HOST_AND_PORT = re.compile(r"\[?(?P<host>[^\[\]/]+?)\]?:(?P<port>\d{1,5})")
PUT_IT = (
    "set RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with, or put it into "
    "~/.ray/auth_token"
)


class JoinError(FuserayError):
    """A cluster cannot be joined; the message says why and what to do."""


def prepare_joining(address: str) -> None:
    """Turn token authentication on in this process, and see that a cluster takes its token.

    Ray by itself leaves authentication off when it is given an address, ends the whole process for a token that cannot
    be read, and tries a wrong one for 20 seconds. `RAY_AUTH_MODE=disabled` joins a cluster that asks for no token.

    Args:
        address: HOST:PORT of the GCS, or what else `ray.init` takes; only HOST:PORT can be seen to answer beforehand.

    Raises:
        JoinError: there is no token, nobody answers, or the cluster refuses the token.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    complaint = complaint_about_token(os.environ, Path.home())
    if complaint:
        raise JoinError(f"the cluster at {address} cannot be joined: {complaint}")
    place = HOST_AND_PORT.fullmatch(address)
    if place:
        _see_that_something_listens(address, place["host"], int(place["port"]))
    _turn_on()
    if place:
        _see_that_it_takes_the_token(address)


def complaint_about_token(variables: Mapping[str, str], home: Path) -> str | None:
    """Return what is wrong with the token that Ray would take, None when nothing is.

    Args:
        variables: the environment's.
        home: the user's home.
    """
    if variables.get("RAY_AUTH_TOKEN", "").strip():
        return None
    named = variables.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else home / ".ray" / "auth_token"
    try:
        token = file.read_text().strip()
    except OSError as error:
        return f"the token {file} cannot be read ({error.strerror}); {PUT_IT}."
    return None if token else f"the token {file} is empty; {PUT_IT}."


def refusal(address: str) -> JoinError:
    """Say that a cluster does not take the token."""
    return JoinError(f"the cluster at {address} refuses this process's token; {PUT_IT}.")


def _turn_on() -> None:
    """Have Ray take the token; it has read the environment long before, so that setting RAY_AUTH_MODE is not enough."""
    from ray._raylet import Config  # type: ignore[attr-defined]

    os.environ["RAY_AUTH_MODE"] = "token"
    Config.initialize("")


def _see_that_something_listens(address: str, host: str, port: int) -> None:
    try:
        create_connection((host, port), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise JoinError(
            f"no Ray cluster answers at {address} ({said}); check the address and that its head runs."
        ) from None


def _see_that_it_takes_the_token(address: str) -> None:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        GcsClient(address=address)
    except AuthenticationError:
        raise refusal(address) from None
    except RayError as error:
        said = str(error).splitlines()[0].rstrip(". ")
        raise JoinError(f"what answers at {address} is no Ray cluster that can be joined ({said}).") from None
