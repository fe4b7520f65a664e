"""From a recipe file and overrides to a checked, resolved recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.spec.document import Document
from orchestrator.spec.errors import Finding, RecipeError
from orchestrator.spec.inheritance import read_extended
from orchestrator.spec.recipe import Recipe
from orchestrator.spec.registry import find_workload
from orchestrator.spec.validation import unknown_key, validate
from workloads.contract import Section, WorkloadEntry

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
"""What does not change the result of a run, and may change when it is continued."""


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
    """A recipe with every default filled in.

    Args:
        recipe: the orchestrator's part.
        workload: the part that belongs to the workload.
        entry: the workload itself.
    """

    recipe: Recipe
    workload: Section
    entry: WorkloadEntry

    def values(self) -> dict[str, Any]:
        """Return all values as plain JSON types, the orchestrator's keys first."""
        return self.recipe.model_dump(mode="json") | self.workload.model_dump(mode="json")

    def digest(self) -> str:
        """Return a digest of what determines the result; names, places and worker counts do not count."""
        values = {section: value for section, value in self.values().items() if section not in FREE_SECTIONS}
        values["stream"] = {key: value for key, value in values["stream"].items() if key not in FREE_STREAM_KEYS}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> ResolvedRecipe:
    """Read, override and check a recipe. Nothing is started.

    Raises:
        SpecError: the file is unreadable or names an unknown workload.
        RecipeError: keys or values are wrong; all faults are listed with file and line.
    """
    document = read_extended(path)
    for assignment in overrides:
        document.override(assignment)
    return resolve(document, {"name": path.stem} | document.plain())


def resolve(document: Document, values: dict[str, Any]) -> ResolvedRecipe:
    """Check a recipe's values; the document says where they stand.

    Raises:
        SpecError: as `load_recipe`.
    """
    if not isinstance(values.get("workload"), str):
        raise RecipeError(
            [Finding(document.place(("workload",)), "workload: this key is required, for example albef.")]
        )
    entry = find_workload(values["workload"])
    return _resolve(document, values, entry)


def _resolve(document: Document, values: dict[str, Any], entry: WorkloadEntry) -> ResolvedRecipe:
    ours, theirs = Recipe.model_fields, entry.config_type.model_fields
    findings = [
        Finding(document.place((key,)), unknown_key(key, [*ours, *theirs]))
        for key in values
        if key not in ours and key not in theirs
    ]
    recipe = validate(Recipe, {key: value for key, value in values.items() if key in ours}, document)
    config = validate(entry.config_type, {key: value for key, value in values.items() if key in theirs}, document)
    for part in (recipe, config):
        findings += part if isinstance(part, list) else []
    if findings or isinstance(recipe, list) or isinstance(config, list):
        raise RecipeError(findings)
    problems = [
        Finding(document.place(tuple(problem.key.split("."))), f"{problem.key}: {problem.message}")
        for problem in entry.check(config, recipe.batch.shape)
    ]
    if problems:
        raise RecipeError(problems)
    return ResolvedRecipe(recipe, config, entry)
