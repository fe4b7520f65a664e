"""What a job may take to other machines: no secrets, no caches, and only paths that exist there.

The job server shows a job's recipe and metadata to all its users, so a recipe may hold no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from orchestrator.cluster.jobs.client import PackageError
from orchestrator.config.errors import ConfigError, Finding, RecipeError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.recipe_paths import ReferencedPath, referenced_paths

SECRET_NAMES = (
    *(".env*", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.keystore", "*.jks"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker"),
    *("credentials", "credentials.json", ".credentials", ".git-credentials", ".netrc", "_netrc", ".pgpass", ".pypirc"),
    *(".npmrc", ".htpasswd"),
)
"""Names of files and folders that usually hold secrets."""

IGNORED_NAMES = (
    *("__pycache__", "*.pyc", "*.pyo", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"),
    *(".git", ".hg", ".svn", ".DS_Store"),
)
"""Files and folders that code does not need: caches, and version control."""

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY( BLOCK)?-----")
ADVICE = "move it out of the package, or the secret into a variable or file on the cluster's machines"


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of a package is silently left out."""
    return any(fnmatchcase(name, pattern) for pattern in IGNORED_NAMES)


def check_name(name: str, path: str) -> None:
    """Refuse a file or folder that is a secret by its name; leaving it out would break code that reads it.

    Args:
        name: the last part of its path.
        path: the whole path, for the message.

    Raises:
        PackageError: it is a secret.
    """
    if any(fnmatchcase(name.lower(), pattern) for pattern in SECRET_NAMES):
        raise PackageError(f"{path}: would be sent to the cluster, and by its name it holds a secret; {ADVICE}.")


def check_content(content: bytes, path: str) -> None:
    """Refuse a file that contains a private key.

    Raises:
        PackageError: it does.
    """
    if PRIVATE_KEY.search(content):
        raise PackageError(f"{path}: would be sent to the cluster, and it holds a private key; {ADVICE}.")


SECRET_WORDS = {
    *("password", "passwd", "passphrase", "secret", "apikey", "credential", "credentials", "signature", "sig"),
    "authorization",
}
KEYS = ("api", "access", "private", "account", "secret")
TOKENS = ("", "api", "auth", "access", "bearer", "session", "security", "hf", "ray", "refresh")
SECRET_PAIRS = {*((word, "key") for word in KEYS), *((word, "token") for word in TOKENS)}
INSTEAD = "leave it out and give it to the cluster's machines by a variable, a file or a cloud role"


def check_for_secrets(overrides: Sequence[str], values: Mapping[str, Any]) -> None:
    """Refuse a recipe that would show a secret on the job server.

    Args:
        overrides: as KEY.PATH=VALUE.
        values: the resolved recipe.

    Raises:
        ConfigError: the key of an override is the name of a secret, or a URI holds one.
    """
    for key in (override.partition("=")[0] for override in overrides):
        if is_secret_name(key):
            raise ConfigError(
                f"override {key}: by its name it is a secret, which the job server would show; {INSTEAD}."
            )
    for key, text in texts(values):
        if holds_secret(text):
            raise ConfigError(f"{key}: holds a password or a signature, which the job server would show; {INSTEAD}.")


def is_secret_name(name: str) -> bool:
    """Return whether a name is that of a secret, judged by its words: `api_token` is, `mask_token` is not."""
    return any(_is_secret(part) for part in name.split("."))


def _is_secret(name: str) -> bool:
    words = ["", *re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())]
    return not SECRET_WORDS.isdisjoint(words) or not SECRET_PAIRS.isdisjoint(pairwise(words))


def holds_secret(text: str) -> bool:
    """Return whether a text is a URI with a password, or with a query parameter that is a secret."""
    if "://" not in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.password) or any(is_secret_name(name) for name, _ in parse_qsl(parts.query))


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string in nested values with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from texts(inner, f"{key}.{number}")


LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
FIXES = {
    "data": "put the data into object storage (s3://, gs://), or give the absolute path of a file system that all "
    "machines of the cluster share",
    "storage": "set storage.uri to object storage (s3://BUCKET/runs, gs://BUCKET/runs), or to the absolute path of a "
    "file system that all machines of the cluster share",
    "tracking": "set tracking.uri to the address of an MLflow server (https://...), or to 'environment' when the "
    "cluster's machines have MLFLOW_TRACKING_URI",
    "start": "copy the checkpoint into object storage (s3://, gs://) and name it there",
    "recovery": "give the absolute path that the file has on every machine",
}
WORKLOAD_FIX = (
    "give a name on the hub instead, or the absolute path of a file system that all machines of the cluster share"
)


def check_paths_shared(resolved: ResolvedRecipe, folder: Path) -> list[str]:
    """Refuse a recipe with relative paths; return warnings about absolute ones that other machines may not have.

    Args:
        resolved: the recipe.
        folder: the base of relative paths.

    Raises:
        RecipeError: it has relative paths; each key is listed with the fix.
    """
    paths = referenced_paths(resolved, folder)
    findings = [_relative_path(path) for path in paths if not path.is_absolute]
    if findings:
        raise RecipeError(findings)
    return [*map(_absolute_path_warning, paths), *_loopback_warnings(resolved), *_environment_warnings(resolved)]


def _relative_path(path: ReferencedPath) -> Finding:
    fix = FIXES.get(str(path.keys[0]), WORKLOAD_FIX)
    return Finding(path.key, f"{path.value} is a path that only this machine knows, not the cluster; {fix}.")


def _absolute_path_warning(path: ReferencedPath) -> str:
    if path.keys[0] == "recovery":
        return f"{path.key}: {path.path} is looked for on every machine of the cluster."
    return f"{path.key}: {path.value} must be on a file system that all machines of the cluster share."


def _loopback_warnings(resolved: ResolvedRecipe) -> list[str]:
    recipe = resolved.recipe
    addresses = {"storage.endpoint": recipe.storage.endpoint, "tracking.uri": recipe.tracking.uri}
    return [
        f"{key}: {address} is the cluster's own machine there, not this one."
        for key, address in addresses.items()
        if address and urlsplit(address).hostname in LOOPBACK_HOSTS
    ]


def _environment_warnings(resolved: ResolvedRecipe) -> list[str]:
    if resolved.recipe.tracking.uri != "environment":
        return []
    return ["tracking.uri: MLFLOW_TRACKING_URI is read on the cluster; it must be set for Ray on its head."]
