"""What follows when MLflow did not take something: another try later, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy.exc
from botocore.exceptions import BotoCoreError
from mlflow.exceptions import MlflowException

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
REFUSALS = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""MLflow's codes that speak of what was sent. Access that is denied is not among them: it may be given again."""

TOO_LARGE = "error code 413"
PASSING_STATUS = {401, 403, 407, 408, 425, 429}
"""Of the HTTP statuses 4xx, those that speak of the moment and the door rather than of what was sent."""

MAY_PASS = (OSError, BotoCoreError, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError)


@dataclass(frozen=True, slots=True)
class Again:
    """Try again.

    Args:
        after_s: how long to wait before that.
    """

    after_s: float


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """Do not try again: it would be refused again."""


def decide(error: Exception, attempt: int) -> Again | LeaveOut:
    """Decide what follows a failed attempt.

    Args:
        error: what the client raised.
        attempt: how many attempts have failed in a row, at least 1.

    Returns:
        A wait that doubles with every attempt up to `LONGEST_PAUSE_S`, or the end.
    """
    if is_refusal(error):
        return LeaveOut()
    return Again(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt - 1, 16)))


def is_refusal(error: BaseException) -> bool:
    """Return whether MLflow or its artifact store would refuse the same thing again, rather than being away."""
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS or TOO_LARGE in str(error)
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in PASSING_STATUS
    return not isinstance(error, MAY_PASS)


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status that an artifact store answered with; boto3 hides it in the error behind its own."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
