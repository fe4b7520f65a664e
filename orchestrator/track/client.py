"""The way to an MLflow run: its address, the client's patience, and what may be shown of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.tracking import MlflowClient

from orchestrator.config.errors import FuserayError
from orchestrator.storage.filesystem import CHECKSUM_VARIABLES
from orchestrator.storage.retry import without_secrets

SQLITE = "sqlite:///"
CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""One attempt each, and a short one: trying again is the outbox's business. What the user has set stays."""

CHATTY = ("mlflow", "alembic")
TRACEBACKS = ("mlflow.store.db.utils",)
"""Loggers that print a traceback for every attempt at a database that is away."""


class TrackingError(FuserayError):
    """MLflow cannot be reached, or refuses the run."""


class TrackingUnavailableError(TrackingError):
    """MLflow cannot be reached, or fails at what is asked of it; later it may be there."""


class Connection:
    """A run in MLflow that is connected to when it is first needed.

    Args:
        uri: MLflow tracking URI, or 'environment' for that in MLFLOW_TRACKING_URI.
        run_id: the run.

    Raises:
        TrackingError: the variable is not set.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.run_id = run_id
        self._address = address(uri)
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """The client; whatever MLflow raises when a database cannot be opened goes through."""
        if self._client is None:
            self._client = connect(self._address)
        return self._client

    def hide(self, text: object) -> str:
        """Return what an error says on one line, without the password of the address."""
        return said(text, self._address)

    def away(self, error: Exception) -> TrackingUnavailableError:
        """Return the error for people that stands for one of MLflow's."""
        return away(self._address, error)


def connect(uri: str) -> MlflowClient:
    """Return a client of an address; whatever MLflow raises goes through."""
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


def address(uri: str) -> str:
    """Return the tracking URI itself, be it the recipe's or the environment's.

    Raises:
        TrackingError: the variable is not set.
    """
    if uri != "environment":
        return uri
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise TrackingError("tracking.uri is 'environment', but the variable MLFLOW_TRACKING_URI is not set.")
    return os.environ["MLFLOW_TRACKING_URI"]


def away(uri: str, error: Exception) -> TrackingUnavailableError:
    """Return the error for people that stands for one of MLflow at an address."""
    return TrackingUnavailableError(
        f"{said(uri, uri)}: MLflow cannot be reached: {said(error, uri)}. Check tracking.uri."
    )


def said(text: object, uri: str) -> str:
    """Return a text on one line, with stars for the password of an address and for other secrets."""
    line = " ".join(str(text).split())
    for password in {urlsplit(uri).password or "", unquote(urlsplit(uri).password or "")} - {""}:
        line = line.replace(password, "***")
    return without_secrets(line)
