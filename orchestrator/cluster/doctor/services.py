"""Checks of the services that a run needs: credentials, storage, and MLflow's tracking store."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from orchestrator.cluster.findings import Finding, failed, passed, warned, with_timeout
from orchestrator.config.errors import FuserayError
from orchestrator.config.recipe_paths import SQLITE
from orchestrator.storage.location import locate

SERVICE_TIMEOUT_S = 20.0
PROVIDERS = {
    "env": "environment variables",
    "shared-credentials-file": "the shared credentials file",
    "config-file": "the AWS config file",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a web identity",
    "sso": "single sign-on",
    "container-role": "the container's role",
    "iam-role": "the machine's role",
}


def credentials_provider() -> str | None:
    """Return the provider in boto3's standard chain that has credentials, None when none has.

    Raises:
        botocore.exceptions.BotoCoreError: a provider is configured wrongly.
    """
    import boto3

    credentials = boto3.Session().get_credentials()
    return None if credentials is None else str(credentials.method)


def check_credentials(provider: Callable[[], str | None]) -> Finding:
    """Check which provider has credentials for object storage; no secret is read or shown."""
    try:
        method = with_timeout(SERVICE_TIMEOUT_S, provider)
    except Exception as error:
        fix = "Complete or remove what it names (AWS_* variables, ~/.aws)."
        return failed("credentials", f"cannot be read: {error}", fix)
    if method is None:
        return passed("credentials", "none for S3; local storage needs none")
    return passed("credentials", f"for S3, from {PROVIDERS.get(method, method)}")


def check_storage(uri: str, endpoint: str | None) -> Finding:
    """Check that a URI in storage can be listed."""
    try:
        entries = with_timeout(SERVICE_TIMEOUT_S, lambda: _list(uri, endpoint))
    except FuserayError as error:
        return failed("storage", str(error), "Check the URI, --endpoint, the credentials and the network.")
    except TimeoutError as error:
        return failed("storage", f"{uri}: {error}", "Check --endpoint and the network (proxy, firewall, VPN).")
    if entries is None:
        return warned("storage", f"{uri}: reached, but nothing is there", "Check the spelling if data should be there.")
    return passed("storage", f"{uri}: reached, {entries} entries")


def check_tracking(uri: str) -> Finding:
    """Check that MLflow's tracking store answers, without creating one that does not exist."""
    shown_uri = mask_passwords(uri)
    try:
        from orchestrator.track.client import store_path
        from orchestrator.track.mlflow_errors import understand
    except ImportError as error:
        return failed("mlflow", f"{shown_uri}: {error}", "Install it with the project's requirements.")
    path = store_path(uri)
    if path is not None and not path.exists():
        return warned("mlflow", f"{uri}: no such file", "The first run makes it; otherwise check --tracking.")
    if path is not None and uri.startswith(SQLITE) and (problem := _sqlite_error(path)) is not None:
        return failed("mlflow", f"{uri}: {problem}", "Restore the file, or move it away to start with a new one.")
    try:
        with_timeout(SERVICE_TIMEOUT_S, lambda: _search(uri))
    except Exception as error:
        explanation = understand(uri, error)
        return failed("mlflow", f"{shown_uri}: {explanation.problem}", explanation.fix)
    return passed("mlflow", f"{shown_uri}: reached")


def mask_passwords(text: str) -> str:
    """Return a text with the passwords in its URIs replaced by stars."""
    return re.sub(r"(://[^/:@\s]*):[^/@\s]+@", r"\1:***@", text)


def _list(uri: str, endpoint: str | None) -> int | None:
    """Return the number of entries, None when the URI does not exist."""
    location = locate(uri, endpoint)
    entries = len(location.list())
    return entries if entries or location.exists() else None


def _sqlite_error(file: Path) -> str | None:
    """Return why a file is not an MLflow store, without MLflow, which would retry for minutes."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT version_num FROM alembic_version")
    except sqlite3.Error as error:
        return f"is not an MLflow store ({error})"
    return None


def _search(uri: str) -> None:
    from orchestrator.track.client import connect

    connect(uri).search_experiments(max_results=1)
