"""Configurations in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.spec.sweep_loading import Assignment


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


def short_keys(keys: list[str]) -> dict[str, str]:
    """Return the last words of keys, as many as it takes to tell them apart."""
    short = {}
    for key in keys:
        parts = key.split(".")
        lengths = range(1, len(parts) + 1)
        endings = (".".join(parts[-length:]) for length in lengths)
        others = [f".{other}" for other in keys if other != key]
        short[key] = next((end for end in endings if not any(one.endswith(f".{end}") for one in others)), key)
    return short
