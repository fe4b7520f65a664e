"""What MLflow's errors mean and what helps against each: unavailable, denied, deleted, refused."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import sqlalchemy.exc
from botocore.exceptions import BotoCoreError
from mlflow.entities import Experiment, LifecycleStage, Run
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from orchestrator.config.commands import upgrade_command
from orchestrator.config.errors import FuserayError
from orchestrator.storage.retry import without_secrets

URI_VARIABLE = "MLFLOW_TRACKING_URI"


class TrackingError(FuserayError):
    """MLflow cannot be reached, or rejects the run."""


class TrackingUnavailableError(TrackingError):
    """MLflow cannot be reached or fails to answer; it may recover later."""


class AccessDeniedError(TrackingError):
    """MLflow answers but wants other credentials, or serves under another host name; access may be granted later."""


REJECTION_CODES = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""MLflow's error codes for invalid input. Denied access is not among them: it may be granted again."""

TOO_LARGE = "error code 413"
DENIED_STATUS = {401, 403, 407}
TRANSIENT_STATUS = DENIED_STATUS | {408, 425, 429}
"""HTTP statuses 4xx that are about access or the current load rather than about what was sent."""

TRANSIENT_ERRORS = (OSError, BotoCoreError, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError)

DELETED = re.compile(r"The (run|experiment) (\S+) must be in (?:the )?'active'")
"""MLflow's words when something is written to a deleted run or experiment, which may be restored."""


HTTP_ANSWER = re.compile(r"failed with error code (\d{3})\b|too many (\d{3}) error responses")
"""How MLflow's client names an answer that is not MLflow's own JSON."""


def is_rejection(error: BaseException) -> bool:
    """Return whether MLflow or its artifact store rejected the input, rather than being unavailable."""
    if isinstance(error, MlflowException):
        rejects = error.error_code in REJECTION_CODES or TOO_LARGE in str(error)
        return rejects and not is_deleted(error)
    status = http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in TRANSIENT_STATUS
    return not isinstance(error, TRANSIENT_ERRORS)


def is_denied(error: BaseException) -> bool:
    """Return whether MLflow or its artifact store answered that access is denied."""
    return http_status(error) in DENIED_STATUS


def is_deleted(error: BaseException) -> bool:
    """Return whether MLflow answered that the run or its experiment is deleted; it may be restored."""
    return isinstance(error, MlflowException) and DELETED.search(str(error)) is not None


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status that an error came with; None when there was no answer, or no HTTP."""
    if isinstance(error, MlflowException):
        named = HTTP_ANSWER.search(str(error))
        return int(named[1] or named[2]) if named else _status_of_code(error)
    for cause in _chain(error):  # boto3 has it in the cause of its own error
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _status_of_code(error: MlflowException) -> int | None:
    status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    answered = isinstance(error, RestException) or status != 500  # an exception without an answer has a 500's code
    return status if answered else None


def _is_of_object_store(error: BaseException) -> bool:
    return any(isinstance(getattr(cause, "response", None), dict) for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def redact(text: object, uri: str) -> str:
    """Return a text on one line, with stars for the URI's password and for other secrets."""
    line = " ".join(str(text).split())
    for password in {urlsplit(uri).password or "", unquote(urlsplit(uri).password or "")} - {""}:
        line = line.replace(password, "***")
    return without_secrets(line)


FOREIGN_HOST = "Invalid Host header"
NO_FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"
OTHER_SCHEMA = "out-of-date database schema"
NOT_MLFLOW = "not in a valid JSON format"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an error of MLflow's means for a run.

    Args:
        problem: what MLflow did, without a full stop.
        fix: what helps, in whole sentences.
        kind: the class of the user-facing error.
    """

    problem: str
    fix: str
    kind: type[TrackingError] = TrackingError

    def error(self, uri: str) -> TrackingError:
        """Return the user-facing error at a tracking URI."""
        return self.kind(f"{redact(uri, uri)}: {self.problem}. {self.fix}")


def explain_error(uri: str, error: Exception) -> TrackingError:
    """Return the user-facing error for one that a client raised.

    Args:
        uri: the tracking URI that the client uses.
        error: what it raised; one of ours is returned as it is.
    """
    return error if isinstance(error, TrackingError) else understand(uri, error).error(uri)


def understand(uri: str, error: Exception) -> Explanation:
    """Return what an error means that a client raised, and what helps.

    Args:
        uri: the tracking URI that the client uses.
        error: what it raised.
    """
    text = redact(error, uri).rstrip(".")
    if is_denied(error):
        return _denied(uri, error, text)
    if known := _known(uri, error, text):
        return known
    if is_rejection(error):
        return Explanation(f"MLflow refuses the request: {text}", "Correct what it names.")
    status = http_status(error) if uri.startswith("http") else None
    if status is not None:
        fix = "It may pass; the server's log says why."
        return Explanation(f"MLflow fails to answer ({status}): {text}", fix, TrackingUnavailableError)
    fix = "Check tracking.uri, and that the server runs."
    return Explanation(f"MLflow cannot be reached: {text}", fix, TrackingUnavailableError)


LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


def _denied(uri: str, error: Exception, text: str) -> Explanation:
    status = http_status(error)
    if _is_of_object_store(error):
        problem = f"the store for MLflow's files denies access: {text}"
        fix = "Check its credentials on this machine (for S3 the AWS_* variables), and tracking.artifacts."
    elif FOREIGN_HOST in text:
        host = urlsplit(uri).hostname or uri
        names = f"{host}:*,localhost:*" if urlsplit(uri).port else f"{host},localhost:*"
        problem = f"MLflow's server does not serve under the host name {host} (403; its /health answers all the same)"
        fix = (
            f"Start the server with --allowed-hosts '{names}', and with the other names that it has to serve, or "
            "write a name that it serves into tracking.uri."
        )
    elif status == 403:
        problem = f"MLflow denies access (403): {text}"
        fix = f"Have this user permitted to write to tracking.experiment, or log in as another: {LOGIN}."
    elif status == 407:
        problem = f"a proxy on the way to MLflow wants a login (407): {text}"
        fix = "Check the variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY."
    else:
        problem, fix = f"MLflow wants a login (401): {text}", f"Set valid credentials: {LOGIN}."
    return Explanation(problem, fix, AccessDeniedError)


def _known(uri: str, error: Exception, text: str) -> Explanation | None:
    """Return what an error means that MLflow's words tell; None for others."""
    if deleted := DELETED.search(text):
        return _deleted(uri, deleted[1], deleted[2])
    if NO_FILE_STORE in text:
        return Explanation(
            "MLflow keeps runs in plain files only when it is told to",
            "Set tracking.uri to a database (sqlite:///runs/mlflow.db) or a server, or set the variable "
            "MLFLOW_ALLOW_FILE_STORE=true.",
        )
    if OTHER_SCHEMA in text:
        problem = f"the database is of another version of MLflow: {text}"
        return Explanation(problem, f"Save a copy of it, then: `{upgrade_command(redact(uri, uri))}`.")
    if NOT_MLFLOW in text or (http_status(error) == 404 and "API request to endpoint" in text):
        return Explanation(
            "something answers, but not as MLflow does: another service, or a login page",
            "Check address and path in tracking.uri.",
        )
    if isinstance(error, ModuleNotFoundError):
        return Explanation(f"this address needs the Python package {error.name}", "Install it, or use a server.")
    return None


def usable_run(client: MlflowClient, run_id: str, uri: str) -> Run:
    """Return a run, which must be there and not deleted.

    Args:
        client: of MLflow.
        run_id: the run.
        uri: the client's tracking URI, for messages.

    Raises:
        TrackingError: MLflow has no such run, or it or its experiment is deleted.
        Exception: what the client raises when MLflow does not answer.
    """
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(
            f"{redact(uri, uri)}: MLflow has no run {run_id}. Check that tracking.uri names the MLflow in which the "
            "run was tracked."
        ) from None
    if run.info.lifecycle_stage == LifecycleStage.DELETED:
        refuse_deleted_experiment(client.get_experiment(run.info.experiment_id), uri)
        raise _deleted(uri, "run", run_id).error(uri)
    return run


def refuse_deleted_experiment(experiment: Experiment, uri: str) -> None:
    """Refuse an experiment that is deleted.

    Raises:
        TrackingError: it is.
    """
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise _deleted(uri, "experiment", experiment.experiment_id, f" {experiment.name!r}").error(uri)


def _deleted(uri: str, kind: str, key: str, name: str = "") -> Explanation:
    """Return that a run or experiment is deleted, and the command that restores it."""
    variable = "" if os.environ.get(URI_VARIABLE) == uri else f"{URI_VARIABLE}={shlex.quote(redact(uri, uri))} "
    restore = f"`{variable}mlflow {kind}s restore --{kind}-id {key}`"
    fix = f"Restore it: {restore}."
    if kind == "experiment":
        fix = f"Restore it with its runs: {restore}; or give a new run another tracking.experiment."
    return Explanation(f"the {kind}{name} ({key}) is deleted in MLflow", fix)
