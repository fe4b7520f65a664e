"""The places that a recipe names, and what becomes of them on another machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from orchestrator.config.loading import ResolvedRecipe

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
