"""Configurations in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.sweep import Assignment


def described(assignment: Assignment) -> str:
    """Return a configuration in one line, such as `distillation.alpha 0.4, adversarial.steps 2`."""
    return ", ".join(f"{key} {value_text(value)}" for key, value in assignment.items()) or "the recipe as it is"


def value_text(value: Any) -> str:
    """Return a value for people: numbers to three digits, whole sections as `key=value`."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{key}={value_text(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + " ".join(map(value_text, value)) + "]"
    return str(value)


def short_keys(keys: Sequence[str], separator: str = ".") -> dict[str, str]:
    """Return the last words of keys, as many as it takes to tell them apart."""
    return {key: _short(key, [other for other in keys if other != key], separator) for key in keys}


def _short(key: str, others: Sequence[str], separator: str) -> str:
    words = key.split(separator)
    endings = (separator.join(words[start:]) for start in reversed(range(len(words))))
    taken = [f"{separator}{other}" for other in others]
    return next((end for end in endings if not any(one.endswith(f"{separator}{end}") for one in taken)), key)
