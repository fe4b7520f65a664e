"""A YAML document that remembers where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from orchestrator.spec.errors import Finding, RecipeError, SpecError

KeyPath = tuple[str | int, ...]


class Document:
    """A mapping read from a file, with command-line overrides laid over it.

    Args:
        origin: the file, for messages.
        tree: the mapping as ruamel.yaml read it, positions included.
    """

    def __init__(self, origin: str, tree: Any) -> None:
        self.origin = origin
        self.tree = tree
        self._overridden: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a YAML file.

        Raises:
            SpecError: the file cannot be read or is not what `parse` takes.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise SpecError(f"{path}: cannot be read ({error.strerror}). Check the path of the recipe.") from error
        except UnicodeDecodeError as error:
            raise SpecError(f"{path}: is not UTF-8 text; save it as UTF-8.") from error

    @classmethod
    def parse(cls, text: str, origin: str) -> Document:
        """Read YAML text (version 1.2: `1e-4` is a number, `no` is text).

        Raises:
            SpecError: the text is not YAML, repeats a key or is not a mapping.
        """
        try:
            tree = YAML(typ="rt").load(text)
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise RecipeError([Finding(f"{origin}:{line}", f"is not valid YAML: {error.problem}")]) from error
        except YAMLError as error:
            raise SpecError(f"{origin}: is not valid YAML: {error}") from error
        if not isinstance(tree, Mapping):
            raise SpecError(f"{origin}: must be a mapping of keys to values, found {type(tree).__name__}.")
        return cls(origin, tree)

    def override(self, assignment: str) -> None:
        """Set one value from `key.path=value`, the value written as in YAML.

        Raises:
            SpecError: the assignment has no `=`, or its path runs through something that is not a mapping.
        """
        dotted, separator, text = assignment.partition("=")
        if not separator or not dotted:
            raise SpecError(
                f"override {assignment!r}: write it as key.path=value, for example optimizer.learning_rate=1e-4."
            )
        *parents, last = dotted.split(".")
        node = self.tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
            if node is None:
                raise SpecError(f"override {assignment!r}: {parent!r} is not a section of the recipe.")
        if not isinstance(node, dict):
            raise SpecError(f"override {assignment!r}: {'.'.join(parents)!r} is not a section of the recipe.")
        node[last] = YAML(typ="safe").load(text)
        self._overridden.add(dotted)

    def place(self, key_path: KeyPath) -> str:
        """Return `file:line` of the deepest part of a key path that the file has."""
        dotted = ".".join(str(part) for part in key_path)
        if any(dotted == name or dotted.startswith(f"{name}.") for name in self._overridden):
            return "command line"
        node, line = self.tree, 0
        for part in key_path:
            positions: Any = getattr(node, "lc", None)
            try:
                find = positions.key if isinstance(node, Mapping) else positions.item
                line = find(part)[0]
                node = node[part]
            except (AttributeError, KeyError, IndexError, TypeError):
                break
        return f"{self.origin}:{line + 1}"

    def plain(self) -> dict[str, Any]:
        """Return the mapping as plain dictionaries, lists and scalars."""
        plain: dict[str, Any] = _plain(self.tree)
        return plain


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_plain(item) for item in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node)
