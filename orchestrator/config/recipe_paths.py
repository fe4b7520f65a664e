"""The paths in a recipe: which of its values are some, and the same recipe with all of them absolute.

A run outlives the process that starts it, and is used from other folders; so its record holds absolute paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from orchestrator.config.document import value_at
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.yaml_text import KeyPath

PATH_KEYS = (
    *(("data", "train"), ("data", "held_out"), ("start", "checkpoint"), ("storage", "uri")),
    *(("tracking", "uri"), ("tracking", "artifacts"), ("recovery", "notices")),
)
RUNS = ("storage", "uri")
"""The key whose path is always relative to the current folder: an existing run is looked for there."""

RESERVED_VALUES = {
    "tracking.uri": ("environment", "databricks", "databricks-uc", "uc"),
    "recovery.notices": ("none", "auto", "aws", "gcp"),
}
"""Values of these keys that are not paths."""

SQLITE = "sqlite:///"
"""Scheme of an MLflow tracking URI that names a file."""

SCHEME = re.compile(rf"({SQLITE}|file://|file:)?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ReferencedPath:
    """A value of a recipe that is a path.

    Args:
        keys: its key path in the recipe.
        scheme: what comes before the path, such as sqlite:///; may be empty.
        path: the path.
    """

    keys: KeyPath
    scheme: str
    path: str

    @property
    def key(self) -> str:
        """The dotted key."""
        return ".".join(map(str, self.keys))

    @property
    def value(self) -> str:
        """The value in the recipe."""
        return self.scheme + self.path

    @property
    def is_absolute(self) -> bool:
        """Whether the path depends on neither the working directory nor the user's home folder."""
        return self.path.startswith("/")

    def absolute_value(self, folder: Path) -> str:
        """Return the value with its path made absolute, relative to a folder."""
        return f"{self.scheme}{folder / Path(self.path).expanduser()}"

    def exists(self, folder: Path) -> bool:
        """Return whether something is there, for a path that is relative to a folder."""
        return (folder / Path(self.path).expanduser()).exists()

    def is_the_end_of(self, earlier: ReferencedPath) -> bool:
        """Return whether another, absolute path may be this relative one, seen from another folder."""
        ending = "/" + self.path.removeprefix("./")
        return earlier.is_absolute and earlier.scheme == self.scheme and earlier.path.endswith(ending)


def referenced_paths(resolved: ResolvedRecipe, folder: Path) -> list[ReferencedPath]:
    """Return the values of a recipe that are paths: of the keys for paths, and strings of the workload that exist.

    Args:
        resolved: the recipe.
        folder: the workload's relative paths are looked for here.
    """
    candidates = [_as_path(keys, value) for keys, value in _places(resolved.values())]
    workload_paths = [path for path in _free_texts(resolved.workload) if path.path and path.exists(folder)]
    return [path for path in candidates if path is not None] + workload_paths


def with_absolute_paths(
    resolved: ResolvedRecipe, folder: Path, earlier: Mapping[str, Any] | None = None
) -> ResolvedRecipe:
    """Return a recipe with every path made absolute.

    Args:
        resolved: the recipe.
        folder: what relative paths are relative to.
        earlier: the values of the recipe with which its run was started before, perhaps in another folder; a relative
            path that may be the path there means that one, unless it is gone.
    """
    relative = [path for path in referenced_paths(resolved, folder) if not path.is_absolute]
    if earlier:
        relative += [path for path in _free_texts(resolved.workload) if path not in relative and _seen(path, earlier)]
    if not relative:
        return resolved
    values = resolved.values()
    for path in relative:
        *parents, last = path.keys
        there = _seen(path, earlier or {})
        moved = there is not None and (there.exists(folder) or not path.exists(folder))
        value_at(values, tuple(parents))[last] = there.value if there and moved else path.absolute_value(folder)
    return resolved.with_values(values)


def follow_moved_folder(resolved: ResolvedRecipe, before: str, now: str) -> ResolvedRecipe:
    """Return the recipe of a run whose folder has moved, with the paths that moved along with it.

    Args:
        resolved: the recipe, with absolute paths.
        before: where the run's folder was.
        now: where it is.
    """
    values = resolved.values()
    paths = [path for keys, value in _places(values) if (path := _as_path(keys, value)) is not None]
    for path in [*paths, *_free_texts(resolved.workload)]:
        *parents, last = path.keys
        value_at(values, tuple(parents))[last] = moved_place(path.value, before, now)
    return resolved if values == resolved.values() else resolved.with_values(values)


def moved_place(place: str, before: str, now: str) -> str:
    """Return where an absolute path is that was given relative to a folder, after both may have moved together.

    Args:
        place: the path; any other address, and a path at which something is, stay as they are.
        before: where the folder was.
        now: where it is.
    """
    path = _as_path((), place)
    if path is None or not is_gone(place):
        return place
    moved = Path(os.path.normpath(Path(now) / os.path.relpath(path.path, before)))
    return f"{path.scheme}{moved}" if moved.exists() else place


def is_gone(place: str) -> bool:
    """Return whether a value of a recipe is an absolute path at which nothing is."""
    path = _as_path((), place)
    return path is not None and path.is_absolute and not Path(path.path).exists()


def is_same_place(before: object, now: object, folder: Path) -> bool:
    """Return whether two values of a recipe's key are equal, or the same path, written relative before.

    Args:
        before: the value in the record of a run.
        now: the value with absolute paths.
        folder: what the relative path is relative to.
    """
    written = _as_path((), before)
    return before == now or (written is not None and bool(written.path) and written.absolute_value(folder) == now)


def without_data_places(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe without the places of its data; their index identifies the data."""
    kept = deepcopy(dict(values))
    for keys in [keys for keys, value in _places(kept) if keys[0] == "data" and value is not None]:
        *parents, last = keys
        value_at(kept, tuple(parents)).pop(last)
    return kept


def _seen(path: ReferencedPath, earlier: Mapping[str, Any]) -> ReferencedPath | None:
    """Return the absolute path that a relative one is in an earlier recipe; None when it may not be that."""
    value = None if path.keys == RUNS else value_at(earlier, path.keys)
    there = _as_path(path.keys, value)
    return there if there is not None and path.path and path.is_the_end_of(there) else None


def _places(values: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the keys for paths, with their values."""
    mix = [("data", "mix", number, "uri") for number, _ in enumerate(value_at(values, ("data", "mix")) or ())]
    yield from ((keys, value_at(values, keys)) for keys in (*PATH_KEYS, *mix))


def _as_path(keys: KeyPath, value: object) -> ReferencedPath | None:
    """Return the value of a key as a path, None when it is another kind of address."""
    if not isinstance(value, str) or value in RESERVED_VALUES.get(".".join(map(str, keys)), ()):
        return None
    match = SCHEME.fullmatch(value)
    scheme, path = (match[1] or "", match[2]) if match else ("", value)
    return None if "://" in path else ReferencedPath(keys, scheme, path)


def _free_texts(section: BaseModel, keys: KeyPath = ()) -> Iterator[ReferencedPath]:
    """Yield the free strings of a workload's config as if they were paths, without those of a Literal type."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _free_texts(value, (*keys, name))
        elif isinstance(value, str) and str in (field.annotation, *get_args(field.annotation)):
            yield ReferencedPath((*keys, name), "", value)
