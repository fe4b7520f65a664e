"""A YAML document that remembers where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from orchestrator.config.errors import ConfigError, Finding, RecipeError

KeyPath = tuple[str | int, ...]

COMMAND_LINE = "command line"
"""The place of a value that an override set."""


class Document:
    """A mapping read from a file, with command-line overrides laid over it.

    Args:
        origin: the file, for messages.
        values: the mapping as plain dictionaries, lists and scalars.
        places: where each part of the mapping stands, by key path.
    """

    def __init__(self, origin: str, values: dict[str, Any], places: Mapping[KeyPath, str]) -> None:
        self.origin = origin
        self._values = values
        self._places = dict(places)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a YAML file.

        Raises:
            ConfigError: the file cannot be read or is not what `parse` takes.
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
        """Read YAML text of any number of documents, parted by `---`; empty ones are left out.

        Raises:
            ConfigError: the text is not YAML, repeats a key, or a document is not a mapping.
        """
        try:
            trees = [tree for tree in YAML(typ="rt").load_all(text) if tree is not None]
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise RecipeError([Finding(f"{origin}:{line}", f"is not valid YAML: {error.problem}")]) from error
        except YAMLError as error:
            raise ConfigError(f"{origin}: is not valid YAML: {error}") from error
        for tree in trees:
            if not isinstance(tree, Mapping):
                raise ConfigError(f"{origin}: must be a mapping of keys to values, found {type(tree).__name__}.")
        return [cls(origin, _plain(tree), _places_of(tree, origin)) for tree in trees]

    def override(self, assignment: str, dotted_in: Sequence[str] = ()) -> None:
        """Set one value from `key.path=value`, the value written as in YAML.

        Args:
            assignment: the key and the value.
            dotted_in: sections whose own keys are dotted; what follows their name is one key.

        Raises:
            ConfigError: the assignment has no `=`, or its path runs through something that is not a mapping.
        """
        dotted, separator, text = assignment.partition("=")
        if not separator or not dotted:
            raise ConfigError(
                f"override {assignment!r}: write it as key.path=value, for example optimizer.learning_rate=1e-4."
            )
        section, _, rest = dotted.partition(".")
        try:
            keys = [section, rest] if section in dotted_in and rest else dotted.split(".")
            self._set(keys, YAML(typ="safe").load(text), COMMAND_LINE)
        except ConfigError as error:
            raise ConfigError(f"override {assignment!r}: {error}") from error

    def set(self, dotted: str, value: Any, location: str = COMMAND_LINE) -> None:
        """Set the value of a dotted key; sections that are not there, or null, are made.

        Args:
            dotted: the key.
            value: plain.
            place: where it was written.

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
        self._forget_places((*parents, last))
        self._places[(*parents, last)] = location

    def copy(self) -> Document:
        """Return a copy that changes on its own."""
        return Document(self.origin, deepcopy(self._values), self._places)

    def pop(self, key: str) -> Any:
        """Remove a top-level key and return its value, None when it is absent."""
        self._forget_places((key,))
        return self._values.pop(key, None)

    def on_top_of(self, base: Document) -> Document:
        """Return a document with this one's values over those of a base, section by section.

        A list, a scalar or null replaces whatever the base has under the same key.
        """
        inherited = {path: location for path, location in base._places.items() if not _hides(self._values, path)}
        return Document(self.origin, _over(base._values, self._values), inherited | self._places)

    def location(self, key_path: KeyPath) -> str:
        """Return `file:line` of the deepest part of a key path that a file has."""
        for length in range(len(key_path), -1, -1):
            if key_path[:length] in self._places:
                return self._places[key_path[:length]]
        return f"{self.origin}:1"

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the mapping as plain dictionaries, lists and scalars."""
        return deepcopy(self._values)

    def _forget_places(self, key_path: KeyPath) -> None:
        depth = len(key_path)
        self._places = {path: location for path, location in self._places.items() if path[:depth] != key_path}


def read_text(path: Path) -> str:
    """Return what is in a text file.

    Raises:
        ConfigError: it cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8.") from error


def _over(base: Any, values: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(values, dict)):
        return deepcopy(values)
    return deepcopy(base) | {key: _over(base.get(key), value) for key, value in values.items()}


def _hides(values: Any, key_path: KeyPath) -> bool:
    for part in key_path:
        if not isinstance(values, dict):
            return True
        if part not in values:
            return False
        values = values[part]
    return False


def _places_of(node: Any, origin: str, prefix: KeyPath = ()) -> dict[KeyPath, str]:
    known = isinstance(node, CommentedMap | CommentedSeq)
    places = {prefix: f"{origin}:{node.lc.line + 1}"} if known and not prefix else {}
    positions = node.lc.data if known else None
    for part, (line, *_) in (positions or {}).items():
        key_path = (*prefix, part if isinstance(node, CommentedSeq) else str(part))
        places[key_path] = f"{origin}:{line + 1}"
        places |= _places_of(node[part], origin, key_path)
    return places


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


# Recipes that extend recipes: `extends: other.yaml`.


EXTENDS = "extends"
"""The key whose value names the file that a recipe builds on, relative to the recipe's own folder."""


def read_extended(path: Path) -> Document:
    """Read a recipe with everything it inherits; the document holds no `extends` any more.

    Sections merge key by key and the extending file wins; lists and null replace. `name` is not inherited, because
    it names the run of one file.

    Raises:
        ConfigError: the file, or a file that it extends, is unreadable or no mapping, or the files extend each other
            in a circle.
    """
    return _read(path, ())


def _read(path: Path, below: tuple[Path, ...]) -> Document:
    document = Document.read(path)
    location = document.location((EXTENDS,))
    named = document.pop(EXTENDS)
    if named is None:
        return document
    chain = (*below, path)
    base = _read(_base(path, named, location, chain), chain)
    base.pop("name")
    return document.on_top_of(base)


def _base(path: Path, named: object, location: str, chain: tuple[Path, ...]) -> Path:
    if not isinstance(named, str):
        raise _refused(location, f"must be the path of one recipe file (got {named!r}).")
    base = path.parent / named
    if base.resolve() in [file.resolve() for file in chain]:
        circle = " -> ".join(str(file) for file in (*chain, base))
        raise _refused(location, f"the recipes extend each other in a circle: {circle}.")
    if not base.is_file():
        raise _refused(location, f"{base} is not there; the path is relative to the folder of {path}.")
    return base


def _refused(location: str, message: str) -> RecipeError:
    return RecipeError([Finding(location, f"{EXTENDS}: {message}")])
