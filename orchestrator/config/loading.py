"""Loads recipes: strict validation with file, line and suggestion, and lookup of plug-ins by entry point."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.config.document import Document, read_extended
from orchestrator.config.errors import ConfigError, Finding, RecipeError
from orchestrator.config.recipe import EvaluationSection, Recipe
from orchestrator.config.yaml_text import KeyPath
from workloads.contract import (
    CheckpointFormat,
    CorpusEntry,
    EvaluationOptions,
    Problem,
    Section,
    WarningsEntry,
    WorkloadEntry,
)

FREE_SECTIONS = ("name", "scale", "storage", "tracking", "checkpoint", "recovery", "evaluation", "budget")
FREE_STREAM_KEYS = (
    "decode_on",
    "decode_threads",
    "prefetch",
    "reader_cpus",
    "decoded_cache_mb",
    "max_bad_share",
    "audit",
)
"""Keys that do not affect a run's result, and may change when it is resumed."""


AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
    """A recipe with every default filled in.

    Args:
        recipe: the orchestrator's part.
        workload: the part that belongs to the workload.
        entry: the workload itself.
        evaluation: the workload's part of the section `evaluation`.
        notes: which files were taken for names in the recipe.
    """

    recipe: Recipe
    workload: Section
    entry: WorkloadEntry
    evaluation: EvaluationOptions
    notes: tuple[str, ...] = field(default=(), compare=False)

    def values(self) -> dict[str, Any]:
        """Return all values as plain JSON types, the orchestrator's keys first."""
        values = self.recipe.model_dump(mode="json") | self.workload.model_dump(mode="json")
        values[EVALUATION] |= self.evaluation.model_dump(mode="json")
        return values

    def with_values(self, values: Mapping[str, Any]) -> ResolvedRecipe:
        """Return the recipe with other values of its keys, all of which are given.

        Raises:
            ValidationError: they are wrong.
        """
        parts = RecipeParts.of(values, self.entry)
        return replace(
            self,
            recipe=Recipe.model_validate_json(json.dumps(parts.recipe)),
            workload=self.entry.config_type.model_validate_json(json.dumps(parts.workload)),
            evaluation=self.entry.evaluation_type.model_validate_json(json.dumps(parts.evaluation)),
        )

    def warnings(self, steps: int) -> list[Problem]:
        """Return what the workload says that a run of so many steps will suffer from, although it can start."""
        if not isinstance(self.entry, WarningsEntry):
            return []
        return list(self.entry.warnings(self.workload, self.recipe.batch.shape, steps))

    def digest(self) -> str:
        """Return the SHA-256 of what determines the result: without names, storage and worker counts."""
        values = {section: value for section, value in self.values().items() if section not in FREE_SECTIONS}
        values["stream"] = {key: value for key, value in values["stream"].items() if key not in FREE_STREAM_KEYS}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


EVALUATION = "evaluation"
"""The section whose keys belong in part to the orchestrator and in part to the workload."""


@dataclass(frozen=True, slots=True)
class RecipeParts:
    """The values of a recipe by whom they belong to; unknown keys are in none of them.

    Args:
        recipe: the orchestrator's.
        workload: the workload's.
        evaluation: the workload's in the section `evaluation`, without its name.
        unknown: paths of unknown keys, with the names that are known in their place.
    """

    recipe: dict[str, Any]
    workload: dict[str, Any]
    evaluation: dict[str, Any]
    unknown: dict[tuple[str, ...], list[str]]

    @classmethod
    def of(cls, values: Mapping[str, Any], entry: WorkloadEntry) -> RecipeParts:
        """Sort out the values of a recipe."""
        ours, theirs = Recipe.model_fields, entry.config_type.model_fields
        recipe = {key: value for key, value in values.items() if key in ours}
        workload = {key: value for key, value in values.items() if key in theirs}
        unknown: dict[tuple[str, ...], list[str]] = {
            (key,): [*ours, *theirs] for key in values.keys() - {*recipe, *workload}
        }
        if not isinstance(recipe.get(EVALUATION), dict):
            return cls(recipe, workload, {}, unknown)
        ours, theirs, section = EvaluationSection.model_fields, entry.evaluation_type.model_fields, recipe[EVALUATION]
        recipe[EVALUATION] = {key: value for key, value in section.items() if key in ours}
        evaluation = {key: value for key, value in section.items() if key in theirs and key not in ours}
        rest = section.keys() - {*recipe[EVALUATION], *evaluation}
        return cls(recipe, workload, evaluation, unknown | {(EVALUATION, key): [*ours, *theirs] for key in rest})

    def unknown_findings(self, document: Document) -> list[Finding]:
        """Return a finding for each unknown key."""
        messages = sorted((path, unknown_key(path[-1], known)) for path, known in self.unknown.items())
        return [
            Finding(document.location(path), f"{'.'.join(path)}: {message}" if path[1:] else message)
            for path, message in messages
        ]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> ResolvedRecipe:
    """Read, override and check a recipe. Nothing is started.

    Raises:
        ConfigError: the file is unreadable or names an unknown workload.
        RecipeError: keys or values are wrong; all errors are listed with file and line.
    """
    document = read_extended(path)
    for assignment in overrides:
        document.override(assignment)
    return resolve(document, {"name": path.stem} | document.to_dict())


def resolve(document: Document, values: dict[str, Any]) -> ResolvedRecipe:
    """Check a recipe's values; the document supplies their file and line.

    Raises:
        ConfigError: as `load_recipe`.
    """
    if not isinstance(values.get("workload"), str):
        raise RecipeError(
            [Finding(document.location(("workload",)), "workload: this key is required, for example albef.")]
        )
    entry = find_workload(values["workload"])
    return _resolve(document, values, entry)


def _resolve(document: Document, values: dict[str, Any], entry: WorkloadEntry) -> ResolvedRecipe:
    parts = RecipeParts.of(values, entry)
    findings = parts.unknown_findings(document)
    recipe = validate(Recipe, parts.recipe, document)
    config = validate(entry.config_type, parts.workload, document)
    evaluation = validate(entry.evaluation_type, parts.evaluation, document, (EVALUATION,))
    for part in (recipe, config, evaluation):
        findings += part if isinstance(part, list) else []
    if findings or isinstance(recipe, list) or isinstance(config, list) or isinstance(evaluation, list):
        raise RecipeError(findings)
    problems = [
        Finding(document.location(tuple(problem.key.split("."))), f"{problem.key}: {problem.message}")
        for problem in entry.check(config, recipe.batch.shape)
    ]
    if problems:
        raise RecipeError(problems)
    return ResolvedRecipe(recipe, config, entry, evaluation, document.notes)


def validate(
    section: type[AnySection], values: dict[str, Any], document: Document, prefix: KeyPath = ()
) -> AnySection | list[Finding]:
    """Build a section from plain values, or return all errors in them.

    Validation goes through JSON, where a list may become a tuple but a string never becomes a number.

    Args:
        section: the type of the section.
        values: its values.
        document: says where they stand.
        prefix: the keys before those of the section.
    """
    try:
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        return [_finding(detail, section, document, prefix) for detail in error.errors(include_url=False)]


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return a message that a key is unknown, with the closest known one."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(names)}."
    return f"unknown key {key!r}; {hint}"


def _finding(detail: ErrorDetails, section: type[Section], document: Document, prefix: KeyPath) -> Finding:
    inner_path: KeyPath = tuple(part for part in detail["loc"] if not str(part).startswith("function-"))
    key_path = (*prefix, *inner_path)
    dotted = ".".join(str(part) for part in key_path)
    if detail["type"] == "extra_forbidden":
        message = f"{dotted}: {unknown_key(str(key_path[-1]), _fields_at(section, inner_path[:-1]))}"
    elif detail["type"] == "missing":
        needed = " and ".join(_keys_to_set(section, inner_path))
        message = f"{dotted}: this key is required{f'; set {needed}' if needed else ''}."
    else:
        message = detail["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
        secret = isinstance(detail["input"], dict) or detail["type"] == "password"
        got = "" if secret else f" (got {detail['input']!r})"
        message = f"{dotted}: {message}{got}" if dotted else message
    return Finding(document.location(key_path), message)


def _keys_to_set(section: type[BaseModel], key_path: KeyPath) -> list[str]:
    missing = _section_at(section, key_path)
    fields = missing.model_fields if missing else {}
    names = [name for name, field in fields.items() if field.is_required()] or list(fields)[:1]
    return [".".join([*map(str, key_path), name]) for name in names]


def _fields_at(section: type[BaseModel], key_path: KeyPath) -> Iterable[str]:
    inner = _section_at(section, key_path)
    return inner.model_fields if inner else []


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


def find_workload(name: str) -> WorkloadEntry:
    """Return the workload registered under a name in the group `fuseray.workloads`.

    Raises:
        ConfigError: no such workload, or it does not implement `WorkloadEntry`.
    """
    entry: WorkloadEntry = _find("fuseray.workloads", "workload", name, WorkloadEntry)
    return entry


def workload_distribution(name: str) -> Distribution | None:
    """Return the distribution that registers a workload, None when there is no such workload."""
    point = _points("fuseray.workloads").get(name)
    return None if point is None else point.dist


def find_corpus(name: str) -> CorpusEntry:
    """Return the corpus builder registered under a name in the group `fuseray.corpora`.

    Raises:
        ConfigError: no such corpus, or it does not implement `CorpusEntry`.
    """
    entry: CorpusEntry = _find("fuseray.corpora", "corpus", name, CorpusEntry)
    return entry


def find_checkpoint_format(name: str) -> CheckpointFormat:
    """Return the checkpoint format registered under a name in the group `fuseray.checkpoint_formats`.

    Raises:
        ConfigError: no such format, or it does not implement `CheckpointFormat`.
    """
    entry: CheckpointFormat = _find("fuseray.checkpoint_formats", "checkpoint format", name, CheckpointFormat)
    return entry


def corpus_names() -> list[str]:
    """Return the names of all registered corpora."""
    return sorted(point.name for point in entry_points(group="fuseray.corpora"))


def _find(group: str, kind: str, name: str, protocol: Any) -> Any:
    points = _points(group)
    if name not in points:
        raise ConfigError(f"{kind}: {unknown_key(name, points).replace('unknown key', f'no {kind} is called')}")
    entry = points[name].load()
    if not isinstance(entry, protocol):
        raise ConfigError(f"{kind} {name!r} ({points[name].value}) does not implement {protocol.__name__}.")
    return entry


def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
