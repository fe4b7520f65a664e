"""Refusing secrets where others can read them: the job server shows what is stored with a job to whoever asks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from orchestrator.config.errors import SpecError

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
        SpecError: an override's key speaks of a secret, or a URI holds one.
    """
    for key in (override.partition("=")[0] for override in overrides):
        if is_secret_name(key):
            raise SpecError(f"override {key}: by its name it is a secret, which the job server would show; {INSTEAD}.")
    for key, text in texts(values):
        if holds_secret(text):
            raise SpecError(f"{key}: holds a password or a signature, which the job server would show; {INSTEAD}.")


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
