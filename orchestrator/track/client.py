"""Connections to MLflow: tracking URI, client settings, and stores on this machine's disk that must exist."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.config.recipe_paths import SQLITE
from orchestrator.storage.filesystem import CHECKSUM_VARIABLES
from orchestrator.storage.proxies import keep_loopback_direct
from orchestrator.track.mlflow_errors import (
    URI_VARIABLE,
    TrackingError,
    explain_error,
    is_deleted,
    is_denied,
    redact,
    usable_run,
)

CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""One short attempt per request, since the outbox retries. Variables that the user has set are kept."""

REMOTE_NAMES = ("databricks", "databricks-uc", "uc")
"""Tracking URIs that are neither paths nor addresses."""

CHATTY = ("mlflow", "alembic")
TRACEBACKS = ("mlflow.store.db.utils",)
"""Loggers that print a traceback for every attempt to reach an unavailable database."""


class Connection:
    """An MLflow run, with a client that is created on first use. It makes no store.

    Args:
        uri: MLflow tracking URI, or 'environment' for that in MLFLOW_TRACKING_URI.
        run_id: the run.

    Raises:
        TrackingError: the variable is not set.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.run_id = run_id
        self._address = resolve_uri(uri)
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The client; raises what MLflow raises when a database cannot be opened, TrackingError when none is there."""
        if self._client is None:
            self._client = connect(self._address)
        return self._client

    def run(self) -> Run:
        """Return the run.

        Raises:
            TrackingError: MLflow has no such run, or it is deleted.
            Exception: what MLflow raises when it does not answer.
        """
        return usable_run(self.client, self.run_id, self._address)

    def redact(self, text: object) -> str:
        """Return a message on one line, without the URI's password."""
        return redact(text, self._address)

    def describe(self, error: object) -> str:
        """Return what an error says, on one line; with its fix when access is denied or the run is deleted."""
        if isinstance(error, Exception) and (is_denied(error) or is_deleted(error)):
            return str(self.explain(error)).rstrip(".")
        return self.redact(error)

    def explain(self, error: Exception) -> TrackingError:
        """Return the user-facing error for one of MLflow's."""
        return explain_error(self._address, error)


def connect(uri: str, create: bool = False) -> MlflowClient:
    """Return a client for a tracking URI; raises what MLflow raises.

    Args:
        uri: the tracking URI.
        create: whether a store on this machine's disk is made if it is not there.

    Raises:
        TrackingError: the store is not there.
    """
    keep_loopback_direct()
    for name, value in CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if os.environ.get("MLFLOW_S3_ENDPOINT_URL"):
        for name in CHECKSUM_VARIABLES:
            os.environ.setdefault(name, "WHEN_REQUIRED")
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in TRACEBACKS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    path = store_path(uri)
    if path is not None and create:
        path.parent.mkdir(parents=True, exist_ok=True)
    if path is not None and not create and not path.exists():
        raise TrackingError(_missing_store(uri, path))
    return MlflowClient(uri)


def experiment_of_run(uri: str, run_id: str) -> str | None:
    """Return the name of the experiment that a run is in; None when there is no such run, or no such store.

    Args:
        uri: MLflow tracking URI, or 'environment'.
        run_id: the run.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    address = resolve_uri(uri)
    path = store_path(address)
    if path is not None and not path.exists():
        return None
    try:
        client = connect(address)
        return str(client.get_experiment(client.get_run(run_id).info.experiment_id).name)
    except Exception as error:
        if isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise explain_error(address, error) from None


def store_path(uri: str) -> Path | None:
    """Return the SQLite file, or the folder of a file store, that a tracking URI names; None for other stores."""
    if uri.startswith(SQLITE):
        return Path(uri.removeprefix(SQLITE).partition("?")[0])
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path))
    return None if ":" in uri or uri in REMOTE_NAMES else Path(uri)


def _missing_store(uri: str, path: Path) -> str:
    if path.is_absolute():
        help_ = "Put it back; a run whose MLflow has moved is continued with tracking.uri=NEW_PLACE."
    else:
        help_ = (
            f"It is looked for below {Path.cwd()}, the current folder; the run's record names it relative to the "
            "folder that the run was started in, so use the run from there."
        )
    return f"{uri}: there is no such MLflow store. {help_}"


def resolve_uri(uri: str) -> str:
    """Return the tracking URI: the recipe's, or that of the environment.

    Raises:
        TrackingError: the variable is not set.
    """
    if uri != "environment":
        return uri
    if not os.environ.get(URI_VARIABLE):
        raise TrackingError(f"tracking.uri is 'environment', but the variable {URI_VARIABLE} is not set.")
    return os.environ[URI_VARIABLE]
