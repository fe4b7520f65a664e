"""The resolved recipe as YAML text, and what changed between two of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML

from orchestrator.config.loading import ResolvedRecipe


def recipe_yaml(resolved: ResolvedRecipe) -> str:
    """Return the resolved recipe as YAML; it is a recipe itself."""
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    yaml.dump(resolved.values(), text)
    return text.getvalue()


def differences(before: str, now: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ, as `key: before -> now`."""
    old, new = flat(YAML(typ="safe").load(before)), flat(now)
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    values: dict[str, Any] = {}
    for key, inner in value.items():
        values |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return values
