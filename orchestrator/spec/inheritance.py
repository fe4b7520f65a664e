"""Recipes that extend recipes: `extends: other.yaml`."""

from __future__ import annotations

from pathlib import Path

from orchestrator.spec.document import Document
from orchestrator.spec.errors import Finding, RecipeError

EXTENDS = "extends"
"""The key whose value names the file that a recipe builds on, relative to the recipe's own folder."""


def read_extended(path: Path) -> Document:
    """Read a recipe with everything it inherits; the document holds no `extends` any more.

    Sections merge key by key and the extending file wins; lists and null replace. `name` is not inherited, because
    it names the run of one file.

    Raises:
        SpecError: the file, or a file that it extends, is unreadable or no mapping, or the files extend each other
            in a circle.
    """
    return _read(path, ())


def _read(path: Path, below: tuple[Path, ...]) -> Document:
    document = Document.read(path)
    place = document.place((EXTENDS,))
    named = document.pop(EXTENDS)
    if named is None:
        return document
    chain = (*below, path)
    base = _read(_base(path, named, place, chain), chain)
    base.pop("name")
    return document.on_top_of(base)


def _base(path: Path, named: object, place: str, chain: tuple[Path, ...]) -> Path:
    if not isinstance(named, str):
        raise _refused(place, f"must be the path of one recipe file (got {named!r}).")
    base = path.parent / named
    if base.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(str(file) for file in (*chain, base))
        raise _refused(place, f"the recipes extend each other in a circle: {circle}.")
    if not base.is_file():
        raise _refused(place, f"{base} is not there; the path is relative to the folder of {path}.")
    return base


def _refused(place: str, message: str) -> RecipeError:
    return RecipeError([Finding(place, f"{EXTENDS}: {message}")])
