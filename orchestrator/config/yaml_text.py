"""YAML text to plain values and back: YAML 1.2 without dates, tags and values that contain themselves.

In YAML 1.2 `1e-4` is a number and `no` is text. `2026-11-30` is text here too, so that a name may be a date.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedOrderedMap, CommentedSeq, CommentedSet, TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, MappingEndEvent, MappingStartEvent, SequenceEndEvent, SequenceStartEvent
from ruamel.yaml.resolver import VersionedResolver

from orchestrator.config.errors import ConfigError, Finding, RecipeError

KeyPath = tuple[str | int, ...]

STANDARD = "tag:yaml.org,2002:"
KNOWN_TAGS = tuple(f"{STANDARD}{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq"))
TEXT_TAGS = tuple(f"{STANDARD}{kind}" for kind in ("timestamp", "value", "merge"))
"""What YAML 1.1 reads into some plain texts: a date, `=` and `<<`."""

TYPE_TAGS = {bytes: "binary", date: "timestamp", CommentedSet: "set", CommentedOrderedMap: "omap"}
"""Tags of values that no file here has, by the type that they are read as."""

QUOTING = "Put quotes around a text that begins with one of []{}@`!&*#%|>'\" or contains ': ' or ' #'."

VARIABLE = re.compile(r"\$\{[^}]*\}|(?:(?<=^)|(?<=/))\$[A-Za-z_]\w*(?=/|$)")
"""An environment variable as shells write it: `${NAME}` anywhere, `$NAME` as a whole part of a path."""


@dataclass(frozen=True, slots=True)
class YamlMapping:
    """A mapping that was read from YAML text.

    Args:
        values: plain dictionaries, lists and scalars.
        locations: `file:line` of each part, by key path.
    """

    values: dict[str, Any]
    locations: Mapping[KeyPath, str]


def read_mappings(text: str, origin: str) -> list[YamlMapping]:
    """Read YAML text of any number of documents, separated by `---`; empty ones are left out.

    Args:
        text: the YAML.
        origin: its file, for messages.

    Raises:
        ConfigError: the text is not YAML, repeats a key, or a document is not a mapping.
        RecipeError: it has tags, or values that contain themselves; all are listed with file and line.
    """
    try:
        _refuse_self_references(text, origin)
        trees = [tree for tree in _reader().load_all(text) if tree is not None]
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError([Finding(f"{origin}:{line}", f"is not valid YAML: {error.problem}. {QUOTING}")]) from error
    except (YAMLError, ValueError, LookupError) as error:
        raise ConfigError(f"{origin}: is not valid YAML: {error}. {QUOTING}") from error
    for tree in trees:
        if not isinstance(tree, CommentedMap):
            raise ConfigError(f"{origin}: must be a mapping of keys to values, found {type(tree).__name__}.")
    return [_mapping(tree, origin) for tree in trees]


def read_value(key: str, text: str) -> Any:
    """Return what a text means as the value of a key in a file.

    Args:
        key: for messages.
        text: what stands after `key: `.

    Raises:
        ConfigError: it is not one value; the message says how to write it as a text.
    """
    as_text = f"As a text it is written {shlex.quote(f'{key}={quoted(text)}')}"
    try:
        documents = read_mappings(f"{quoted(key)}: {text}", "")
    except RecipeError as error:
        raise ConfigError(f"{' '.join(finding.message for finding in error.findings)} {as_text}") from error
    except ConfigError as error:
        raise ConfigError(f"{str(error).removeprefix(': ')} {as_text}") from error
    if len(documents) != 1 or list(documents[0].values) != [key]:
        raise ConfigError(f"is more than one value. {as_text}")
    return documents[0].values[key]


def quoted(text: str) -> str:
    """Return a text as a YAML value that is read as that text, whatever it begins with or contains."""
    return json.dumps(text, ensure_ascii=False)


def to_yaml(values: object) -> str:
    """Return plain values as YAML text, which `read_mappings` reads as the same values."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    yaml.dump(values, text)
    return text.getvalue()


def variables_in(node: Any, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the environment variables in the texts of plain values, each with its key path."""
    if isinstance(node, str):
        yield from ((prefix, match.group()) for match in VARIABLE.finditer(node))
    for part, inner in _parts(node):
        yield from variables_in(inner, (*prefix, part))


def variable_message(key: str, variable: str) -> str:
    """Return what to write instead of an environment variable in the value of a key."""
    return (
        f"{key}: {variable} would be taken literally, since files take no environment variables. Write its value, or "
        f'let the shell put it in: {key}="{variable}..." on the command line, in double quotes.'
    )


class _Resolver(VersionedResolver):
    """Tells what a plain text is: a number, true, false, null, and otherwise text."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the tag of a node without one of its own."""
        tag = super().resolve(kind, value, implicit)
        return self.DEFAULT_SCALAR_TAG if str(tag) in TEXT_TAGS and value != "<<" else tag


def _reader() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.Resolver = _Resolver
    return yaml


def _mapping(tree: CommentedMap, origin: str) -> YamlMapping:
    locations = _locations_of(tree, origin)
    if tags := list(_tags_in(tree)):
        raise RecipeError([Finding(_location(path, locations), _tag_message(path, tag)) for path, tag in tags])
    return YamlMapping(_to_plain(tree), locations)


def _refuse_self_references(text: str, origin: str) -> None:
    """Refuse an alias inside the value that it stands for, which would be read as null."""
    open_anchors: list[str | None] = []
    for event in _reader().parse(text) if "*" in text else ():
        if isinstance(event, AliasEvent) and event.anchor in open_anchors:
            line = event.start_mark.line + 1
            raise RecipeError([Finding(f"{origin}:{line}", f"*{event.anchor} stands for a value that contains it.")])
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            open_anchors.append(event.anchor)
        elif isinstance(event, MappingEndEvent | SequenceEndEvent):
            open_anchors.pop()


def _location(key_path: KeyPath, locations: Mapping[KeyPath, str]) -> str:
    return next(locations[key_path[:end]] for end in range(len(key_path), -1, -1) if key_path[:end] in locations)


def _locations_of(node: Any, origin: str, prefix: KeyPath = ()) -> dict[KeyPath, str]:
    known = isinstance(node, CommentedMap | CommentedSeq)
    locations = {prefix: f"{origin}:{node.lc.line + 1}"} if known and not prefix else {}
    positions = node.lc.data if known else None
    for part, (line, *_) in (positions or {}).items():
        key_path = (*prefix, part if isinstance(node, CommentedSeq) else str(part))
        locations[key_path] = f"{origin}:{line + 1}"
        locations |= _locations_of(node[part], origin, key_path)
    return locations


def _tags_in(node: Any, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    tag = _tag_of(node)
    if tag not in ("", *KNOWN_TAGS):
        yield prefix, tag
    for part, inner in _parts(node):
        yield from _tags_in(inner, (*prefix, part))


def _tag_of(node: Any) -> str:
    """Return the tag that is written before a node; empty for what needs none."""
    if type(node) in (CommentedMap, CommentedSeq, TaggedScalar):
        return str(node.tag.value or "") if node.tag else ""
    if node is None or isinstance(node, bool | int | float | str):
        return ""
    return next((f"!!{tag}" for kind, tag in TYPE_TAGS.items() if isinstance(node, kind)), type(node).__name__)


def _parts(node: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(node, Mapping):
        yield from ((str(key), inner) for key, inner in node.items())
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        yield from enumerate(node)


def _tag_message(key_path: KeyPath, tag: str) -> str:
    key, name = ".".join(map(str, key_path)), tag.replace(STANDARD, "!!")
    return (
        f"{key}: the tag {name} is not known here; write the value alone, in quotes if it begins with '!'. What "
        f'is in an environment variable the shell puts in: {key}="$NAME" on the command line.'
    )


def _to_plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(key): _to_plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_to_plain(item) for item in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return str(node.value) if isinstance(node, TaggedScalar) else str(node)
