"""A YAML document that remembers the file and line of each value, with overrides and `extends: other.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from orchestrator.config.errors import ConfigError, Finding, RecipeError
from orchestrator.config.named_files import RECIPES, FoundFile, find_file
from orchestrator.config.yaml_text import KeyPath, quoted, read_mappings, read_value, variable_message, variables_in

COMMAND_LINE = "command line"
"""The location of a value that an override set."""

EXTENDS = "extends"
"""The key whose value is what a recipe extends: a file relative to the recipe's own folder, or a recipe's name."""


class Document:
    """A mapping read from a file, with command-line overrides applied.

    Args:
        origin: the file, for messages.
        values: the mapping as plain dictionaries, lists and scalars.
        locations: `file:line` of each part of the mapping, by key path.
        notes: which files were taken for names in it.
    """

    def __init__(
        self, origin: str, values: dict[str, Any], locations: Mapping[KeyPath, str], notes: Sequence[str] = ()
    ) -> None:
        self.origin = origin
        self.notes = tuple(notes)
        self._values = values
        self._locations = dict(locations)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a YAML file.

        Raises:
            ConfigError: the file cannot be read, or `parse` rejects it.
        """
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, origin: str) -> Document:
        """Read YAML text (version 1.2: `1e-4` is a number, `no` is text).

        Raises:
            ConfigError: the text is not YAML, repeats a key or is not a mapping.
        """
        documents = cls.parse_all(text, origin)
        if len(documents) != 1:
            raise ConfigError(f"{origin}: must be a mapping of keys to values, found {len(documents)} documents.")
        return documents[0]

    @classmethod
    def parse_all(cls, text: str, origin: str) -> list[Document]:
        """Read YAML text of any number of documents, separated by `---`; empty ones are left out.

        Raises:
            ConfigError: as `read_mappings`.
        """
        return [cls(origin, mapping.values, mapping.locations) for mapping in read_mappings(text, origin)]

    def override(self, assignment: str, dotted_in: Sequence[str] = ()) -> None:
        """Set one value from `key.path=value`, the value written as in YAML.

        Args:
            assignment: the key and the value.
            dotted_in: sections whose own keys contain dots; what follows their name is one key.

        Raises:
            ConfigError: the assignment has no `=`, its value is not YAML, or its path runs through something that is
                not a mapping.
        """
        dotted, separator, text = assignment.partition("=")
        if not separator or not dotted:
            raise ConfigError(
                f"override {assignment!r}: write it as key.path=value, for example optimizer.learning_rate=1e-4."
            )
        section, _, rest = dotted.partition(".")
        try:
            keys = [section, rest] if section in dotted_in and rest else dotted.split(".")
            value = read_value(dotted, text)
            for _, variable in variables_in(value):
                raise ConfigError(variable_message(dotted, variable))
            self._set(keys, value, COMMAND_LINE)
        except ConfigError as error:
            raise ConfigError(f"override {assignment!r}: {error}") from error

    def set(self, dotted: str, value: Any, location: str = COMMAND_LINE) -> None:
        """Set the value of a dotted key; sections that are missing or null are created.

        Args:
            dotted: the key.
            value: plain Python value.
            location: where it was written.

        Raises:
            ConfigError: the path runs through something that is not a mapping.
        """
        self._set(dotted.split("."), value, location)

    def _set(self, keys: Sequence[str], value: Any, location: str) -> None:
        *parents, last = keys
        node: dict[str, Any] = self._values
        for depth, parent in enumerate(parents, start=1):
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ConfigError(f"{'.'.join(parents[:depth])!r} is not a section of the recipe.")
        node[last] = deepcopy(value)
        self._forget_locations((*parents, last))
        self._locations[(*parents, last)] = location

    def refuse_variables(self) -> None:
        """Refuse environment variables in the values, which would be taken literally.

        Raises:
            RecipeError: there are some; all are listed with file and line.
        """
        findings = [
            Finding(self.location(key_path), variable_message(".".join(map(str, key_path)), variable))
            for key_path, variable in variables_in(self._values)
        ]
        if findings:
            raise RecipeError(findings)

    def copy(self) -> Document:
        """Return an independent copy."""
        return Document(self.origin, deepcopy(self._values), self._locations, self.notes)

    def pop(self, key: str) -> Any:
        """Remove a top-level key and return its value, None when it is absent."""
        self._forget_locations((key,))
        return self._values.pop(key, None)

    def on_top_of(self, base: Document) -> Document:
        """Return a document with this one's values merged over those of a base, section by section.

        A list, a scalar or null replaces what the base has under the same key.
        """
        inherited = {path: location for path, location in base._locations.items() if not _replaces(self._values, path)}
        values, notes = _merged(base._values, self._values), self.notes + base.notes
        return Document(self.origin, values, inherited | self._locations, notes)

    def location(self, key_path: KeyPath) -> str:
        """Return `file:line` of the longest prefix of a key path that is in a file."""
        for length in range(len(key_path), -1, -1):
            if key_path[:length] in self._locations:
                return self._locations[key_path[:length]]
        return f"{self.origin}:1"

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the mapping as plain dictionaries, lists and scalars."""
        return deepcopy(self._values)

    def _forget_locations(self, key_path: KeyPath) -> None:
        depth = len(key_path)
        self._locations = {path: location for path, location in self._locations.items() if path[:depth] != key_path}


def text_override(key: str, text: str) -> str:
    """Return the `key.path=value` that sets a key to a text, whatever YAML would read into it."""
    return f"{key}={quoted(text)}"


def read_text(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        ConfigError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8.") from error


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one mapping with dotted keys.

    Args:
        values: nested mappings.
        prefix: put in front of every key.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def value_at(values: Any, keys: KeyPath) -> Any:
    """Return the value of a key path in nested mappings and lists, None where there is none."""
    for key in keys:
        if isinstance(values, Mapping):
            values = values.get(str(key))
        else:
            values = values[key] if isinstance(values, list) and isinstance(key, int) and key < len(values) else None
    return values


def _merged(base: Any, values: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(values, dict)):
        return deepcopy(values)
    return deepcopy(base) | {key: _merged(base.get(key), value) for key, value in values.items()}


def _replaces(values: Any, key_path: KeyPath) -> bool:
    for part in key_path:
        if not isinstance(values, dict):
            return True
        if part not in values:
            return False
        values = values[part]
    return False


def read_extended(path: Path) -> Document:
    """Read a recipe and the recipes it extends, merged into one document without the key `extends`.

    Sections merge key by key and the extending file wins; lists and null replace. `name` is not inherited, because
    it names the run of one file.

    Raises:
        ConfigError: the file, or a file that it extends, is unreadable or not a mapping, or the files extend each
            other in a circle.
    """
    return _read_chain(path, ())


def _read_chain(path: Path, below: tuple[Path, ...]) -> Document:
    document = Document.read(path)
    document.refuse_variables()
    location = document.location((EXTENDS,))
    extended = document.pop(EXTENDS)
    if extended is None:
        return document
    chain = (*below, path)
    found = _extended_file(path, extended, location, chain)
    if found.note:
        document.notes += (found.note,)
    base = _read_chain(found.path, chain)
    base.pop("name")
    return document.on_top_of(base)


def _extended_file(path: Path, extended: object, location: str, chain: tuple[Path, ...]) -> FoundFile:
    if not isinstance(extended, str):
        raise _extends_error(location, f"must be the path or the name of one recipe (got {extended!r}).")
    try:
        found = find_file(RECIPES, extended, path.parent)
    except ConfigError as error:
        raise _extends_error(location, str(error)) from error
    if found.path.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(str(file) for file in (*chain, found.path))
        raise _extends_error(location, f"the recipes extend each other in a circle: {circle}.")
    return found


def _extends_error(location: str, message: str) -> RecipeError:
    return RecipeError([Finding(location, f"{EXTENDS}: {message}")])
