"""Strict validation of one section of a recipe, with places and suggestions."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec.document import Document, KeyPath
from orchestrator.spec.errors import Finding
from workloads.contract import Section

AnySection = TypeVar("AnySection", bound=Section)


def validate(section: type[AnySection], values: dict[str, Any], document: Document) -> AnySection | list[Finding]:
    """Build a section from plain values, or return everything that is wrong with them.

    Validation goes through JSON, where a list may become a tuple but a string never becomes a number.
    """
    try:
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        return [_finding(detail, section, document) for detail in error.errors(include_url=False)]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Say that a key is unknown and name the closest known one."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(names)}."
    return f"unknown key {key!r}; {hint}"


def _finding(detail: ErrorDetails, section: type[Section], document: Document) -> Finding:
    key_path: KeyPath = tuple(part for part in detail["loc"] if not str(part).startswith("function-"))
    dotted = ".".join(str(part) for part in key_path)
    if detail["type"] == "extra_forbidden":
        message = f"{dotted}: {unknown_key(str(key_path[-1]), _fields_at(section, key_path[:-1]))}"
    elif detail["type"] == "missing":
        needed = " and ".join(_keys_to_set(section, key_path))
        message = f"{dotted}: this key is required{f'; set {needed}' if needed else ''}."
    else:
        said = detail["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
        secret = isinstance(detail["input"], dict) or detail["type"] == "password"
        got = "" if secret else f" (got {detail['input']!r})"
        message = f"{dotted}: {said}{got}" if dotted else said
    return Finding(document.place(key_path), message)


def _keys_to_set(section: type[BaseModel], key_path: KeyPath) -> list[str]:
    missing = _section_at(section, key_path)
    fields = missing.model_fields if missing else {}
    names = [name for name, field in fields.items() if field.is_required()] or list(fields)[:1]
    return [".".join([*map(str, key_path), name]) for name in names]


def _fields_at(section: type[BaseModel], key_path: KeyPath) -> Iterable[str]:
    found = _section_at(section, key_path)
    return found.model_fields if found else []


def _section_at(section: type[BaseModel], key_path: KeyPath) -> type[BaseModel] | None:
    kinds: list[Any] = [section]
    for part in key_path:
        kinds = [inner for kind in kinds for inner in _kinds_inside(kind, part)]
    return next((kind for kind in kinds if _is_section(kind)), None)


def _kinds_inside(kind: Any, part: str | int) -> Iterable[Any]:
    if _is_section(kind):
        field = kind.model_fields.get(str(part))
        return _members_of(field.annotation) if field else ()
    if get_origin(kind) is dict:
        return _members_of(get_args(kind)[1])
    return _members_of(get_args(kind)[0]) if get_origin(kind) in (list, tuple) else ()


def _members_of(annotation: Any) -> Iterable[Any]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
