"""What must not travel with a job: keys, credentials, caches and the history of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel

from orchestrator.cluster.jobs.client import PackageError
from orchestrator.config.errors import ConfigError, Finding, RecipeError
from orchestrator.config.loading import ResolvedRecipe

SECRET_NAMES = (
    *(".env*", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.keystore", "*.jks"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker"),
    *("credentials", "credentials.json", ".credentials", ".git-credentials", ".netrc", "_netrc", ".pgpass", ".pypirc"),
    *(".npmrc", ".htpasswd"),
)
"""Files and folders that hold secrets by custom."""

LEFT_OUT = (
    *("__pycache__", "*.pyc", "*.pyo", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"),
    *(".git", ".hg", ".svn", ".DS_Store"),
)
"""Files and folders that no code needs."""

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY( BLOCK)?-----")
ADVICE = "move it out of the package, or the secret into a variable or file on the cluster's machines"


def is_left_out(name: str) -> bool:
    """Return whether a file or folder of a package stays here without a word."""
    return any(fnmatchcase(name, pattern) for pattern in LEFT_OUT)


def check_name(name: str, place: str) -> None:
    """Refuse a file or folder that is a secret by its name; to leave it out would break code that reads it.

    Args:
        name: its last part.
        place: the whole path, for the message.

    Raises:
        PackageError: it is one.
    """
    if any(fnmatchcase(name.lower(), pattern) for pattern in SECRET_NAMES):
        raise PackageError(f"{place}: would travel to the cluster, and by its name it holds a secret; {ADVICE}.")


def check_content(content: bytes, place: str) -> None:
    """Refuse a file with a private key in it.

    Raises:
        PackageError: there is one.
    """
    if PRIVATE_KEY.search(content):
        raise PackageError(f"{place}: would travel to the cluster, and it holds a private key; {ADVICE}.")


# Refusing secrets where others can read them: the job server shows what is stored with a job to whoever asks.


SECRET_WORDS = {
    *("password", "passwd", "passphrase", "secret", "apikey", "credential", "credentials", "signature", "sig"),
    "authorization",
}
KEYS = ("api", "access", "private", "account", "secret")
TOKENS = ("", "api", "auth", "access", "bearer", "session", "security", "hf", "ray", "refresh")
SECRET_PAIRS = {*((word, "key") for word in KEYS), *((word, "token") for word in TOKENS)}
INSTEAD = "leave it out and give it to the cluster's machines by a variable, a file or a cloud role"


def refuse_secrets(overrides: Sequence[str], values: Mapping[str, Any]) -> None:
    """Refuse a recipe that would carry a secret to the job server.

    Args:
        overrides: as KEY.PATH=VALUE.
        values: the resolved recipe.

    Raises:
        ConfigError: an override's key speaks of a secret, or a URI holds one.
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
    """Return whether a name speaks of a secret, word by word: `api_token` does, `mask_token` does not."""
    return any(_is_secret(part) for part in name.split("."))


def _is_secret(name: str) -> bool:
    words = ["", *re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())]
    return not SECRET_WORDS.isdisjoint(words) or not SECRET_PAIRS.isdisjoint(pairwise(words))


def holds_secret(text: str) -> bool:
    """Return whether a text is a URI with a password or with a parameter that is a secret."""
    if "://" not in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.password) or any(is_secret_name(name) for name, _ in parse_qsl(parts.query))


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in nested values with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from texts(inner, f"{key}.{number}")


# The places that a recipe names, and what becomes of them on another machine.


OWN_PLACES = (
    *(("data", "train"), ("data", "held_out"), ("start", "checkpoint"), ("storage", "uri")),
    *(("tracking", "uri"), ("tracking", "artifacts"), ("recovery", "notices")),
)
NAMES = {"tracking.uri": ("environment", "databricks", "uc"), "recovery.notices": ("none", "auto", "aws", "gcp")}
"""What is no path although it could be one."""

LEADING = re.compile(r"(sqlite:///|file://|file:)?(.*)", re.DOTALL)

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A value of a recipe that is a path.

    Args:
        keys: where it stands.
        lead: what comes before the path, such as sqlite:///.
        path: the path.
    """

    keys: KeyPath
    lead: str
    path: str

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(map(str, self.keys))

    @property
    def value(self) -> str:
        """What stands in the recipe."""
        return self.lead + self.path

    @property
    def is_absolute(self) -> bool:
        """Whether it means the same whatever the working directory and the user's home are."""
        return self.path.startswith("/")

    def below(self, folder: Path) -> str:
        """Return the value with a path that is absolute."""
        return f"{self.lead}{folder / Path(self.path).expanduser()}"


def file_places(resolved: ResolvedRecipe, folder: Path) -> list[Place]:
    """Return the values of a recipe that are paths of files: those that always are, and the workload's that exist.

    Args:
        resolved: the recipe.
        folder: where relative paths of the workload are looked for.
    """
    values = resolved.values()
    found = [_place(keys, _value(values, keys)) for keys in _own_keys(values)]
    theirs = [
        Place(keys, "", text)
        for keys, text in _free_texts(resolved.workload)
        if text and (folder / Path(text).expanduser()).exists()
    ]
    return [place for place in found if place is not None] + theirs


def absolute(resolved: ResolvedRecipe, folder: Path) -> dict[str, Any]:
    """Return a recipe's values with every path made absolute, as it is meant in a folder."""
    values = resolved.values()
    for place in file_places(resolved, folder):
        *parents, last = place.keys
        _value(values, tuple(parents))[last] = place.below(folder)
    return values


def _own_keys(values: Mapping[str, Any]) -> Iterator[KeyPath]:
    yield from OWN_PLACES
    for number, _ in enumerate(values["data"]["mix"] or ()):
        yield ("data", "mix", number, "uri")


def _place(keys: KeyPath, value: object) -> Place | None:
    """Return the value of a key as a path, None when it is another kind of address."""
    if not isinstance(value, str) or value in NAMES.get(".".join(map(str, keys)), ()):
        return None
    match = LEADING.fullmatch(value)
    lead, path = (match[1] or "", match[2]) if match else ("", value)
    return None if "://" in path else Place(keys, lead, path)


def _value(values: Any, keys: KeyPath) -> Any:
    for key in keys:
        values = None if values is None else values[key]
    return values


def _free_texts(section: BaseModel, keys: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the texts of a workload's config that may be anything, with their keys; choices among words are none."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _free_texts(value, (*keys, name))
        elif isinstance(value, str) and str in (field.annotation, *get_args(field.annotation)):
            yield (*keys, name), value


# Whether the machines of a cluster can find what a recipe names.


LOOPBACK = ("localhost", "127.0.0.1", "::1")
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
OTHERWISE = (
    "give a name on the hub instead, or the absolute path of a file system that all machines of the cluster share"
)


def check_shared(resolved: ResolvedRecipe, folder: Path) -> list[str]:
    """Refuse a recipe that names what this machine alone has; return warnings about what others may not have.

    Args:
        resolved: the recipe.
        folder: where relative paths start.

    Raises:
        RecipeError: it does; every such key is listed with the fix.
    """
    places = file_places(resolved, folder)
    findings = [_only_here(place) for place in places if not place.is_absolute]
    if findings:
        raise RecipeError(findings)
    return [*map(_must_be_shared, places), *_loopback(resolved), *_environment(resolved)]


def _only_here(place: Place) -> Finding:
    fix = FIXES.get(str(place.keys[0]), OTHERWISE)
    return Finding(place.key, f"{place.value} is a path that only this machine knows, not the cluster; {fix}.")


def _must_be_shared(place: Place) -> str:
    if place.keys[0] == "recovery":
        return f"{place.key}: {place.path} is looked for on every machine of the cluster."
    return f"{place.key}: {place.value} must be on a file system that all machines of the cluster share."


def _loopback(resolved: ResolvedRecipe) -> list[str]:
    recipe = resolved.recipe
    addresses = {"storage.endpoint": recipe.storage.endpoint, "tracking.uri": recipe.tracking.uri}
    return [
        f"{key}: {address} is the cluster's own machine there, not this one."
        for key, address in addresses.items()
        if address and urlsplit(address).hostname in LOOPBACK
    ]


def _environment(resolved: ResolvedRecipe) -> list[str]:
    if resolved.recipe.tracking.uri != "environment":
        return []
    return ["tracking.uri: MLFLOW_TRACKING_URI is read on the cluster; it must be set for Ray on its head."]
