"""Connections to MLflow: tracking URI, client settings, and error messages without secrets."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.tracking import MlflowClient

from orchestrator.config.errors import FuserayError
from orchestrator.storage.filesystem import CHECKSUM_VARIABLES
from orchestrator.storage.proxies import keep_loopback_direct
from orchestrator.storage.retry import without_secrets

SQLITE = "sqlite:///"
CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""One short attempt per request, since the outbox retries. Variables that the user has set are kept."""

CHATTY = ("mlflow", "alembic")
TRACEBACKS = ("mlflow.store.db.utils",)
"""Loggers that print a traceback for every attempt to reach an unavailable database."""


class TrackingError(FuserayError):
    """MLflow cannot be reached, or rejects the run."""


class TrackingUnavailableError(TrackingError):
    """MLflow cannot be reached or fails to answer; it may recover later."""


class Connection:
    """An MLflow run, with a client that is created on first use.

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
        """The client; raises what MLflow raises when a database cannot be opened."""
        if self._client is None:
            self._client = connect(self._address)
        return self._client

    def redact(self, text: object) -> str:
        """Return a message on one line, without the URI's password."""
        return redact(text, self._address)

    def unreachable_error(self, error: Exception) -> TrackingUnavailableError:
        """Return the user-facing error for one of MLflow's."""
        return unreachable_error(self._address, error)


def connect(uri: str) -> MlflowClient:
    """Return a client for a tracking URI; raises what MLflow raises."""
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
    if uri.startswith(SQLITE):
        Path(uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def resolve_uri(uri: str) -> str:
    """Return the tracking URI: the recipe's, or that of the environment.

    Raises:
        TrackingError: the variable is not set.
    """
    if uri != "environment":
        return uri
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise TrackingError("tracking.uri is 'environment', but the variable MLFLOW_TRACKING_URI is not set.")
    return os.environ["MLFLOW_TRACKING_URI"]


def unreachable_error(uri: str, error: Exception) -> TrackingUnavailableError:
    """Return the user-facing error for one of MLflow's at a tracking URI."""
    return TrackingUnavailableError(
        f"{redact(uri, uri)}: MLflow cannot be reached: {redact(error, uri)}. Check tracking.uri."
    )


def redact(text: object, uri: str) -> str:
    """Return a text on one line, with stars for the URI's password and for other secrets."""
    line = " ".join(str(text).split())
    for password in {urlsplit(uri).password or "", unquote(urlsplit(uri).password or "")} - {""}:
        line = line.replace(password, "***")
    return without_secrets(line)
