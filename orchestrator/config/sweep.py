"""A sweep's YAML: its sections, and a checked sweep whose every configuration is a valid recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.config.document import Document, flatten, read_extended, value_at
from orchestrator.config.errors import ConfigError, Finding, RecipeError
from orchestrator.config.loading import ResolvedRecipe, resolve, validate
from orchestrator.config.named_files import RECIPES, find_file
from orchestrator.config.recipe import folder_name
from orchestrator.config.search_space import Condition, ConditionError, Parameter, SpaceError, parse_parameter
from workloads.contract import Section


class SearchSection(Section):
    """How configurations are chosen."""

    method: Literal["grid", "random", "tpe"] = Field(
        "tpe",
        description="grid: every combination; random: independent draws; tpe: Optuna's estimator, which learns from "
        "the trials before.",
    )
    trials: int | None = Field(
        None, ge=1, description="Configurations to try; none: the whole grid. Each is run once per replica."
    )
    grid_points: int = Field(4, ge=2, description="Values that a grid takes from a range.")
    seed: int = Field(0, ge=0, description="Key of the draws.")

    @model_validator(mode="after")
    def _how_many(self) -> SearchSection:
        if self.method != "grid" and self.trials is None:
            raise ValueError(f"search.method {self.method} needs search.trials, the number of configurations to try")
        return self


class ObjectiveSection(Section):
    """The metric to maximise or minimise."""

    metric: str = Field(
        description="Name in MLflow, such as loss, or held_out/NAME for one of the workload's held-out metrics."
    )
    mode: Literal["min", "max"] = Field(description="Whether small or large values are good.")


class SchedulerSection(Section):
    """Which trials are stopped early, at equal numbers of samples seen."""

    kind: Literal["none", "asha", "hyperband", "pbt"] = Field("none", description="Ray Tune's scheduler.")
    first_rung: float = Field(
        0.1, gt=0, lt=1, description="Share of the run after which trials are first compared (asha, hyperband)."
    )
    reduction: int = Field(3, ge=2, description="Of so many trials one continues from rung to rung (asha, hyperband).")
    exchange_every: float = Field(
        0.1, gt=0, lt=1, description="Share of the run between two exchanges of checkpoints (pbt)."
    )
    quantile: float = Field(0.25, gt=0, le=0.5, description="Share of trials that take over from the best ones (pbt).")


class SweepBudgetSection(Section):
    """When no further trial starts and those that run are stopped with a checkpoint; each may be left out."""

    hours: float | None = Field(None, gt=0, description="Hours since the sweep started, over all its starts.")
    gpu_hours: float | None = Field(None, gt=0, description="GPU-hours of all trials.")
    usd: float | None = Field(None, gt=0, description="Cost of all trials, by the price table.")


class Sweep(Section):
    """A sweep: a recipe, what varies, and how the best is found."""

    name: str = Field(description="The sweep's name; it names the sweep's folder and its run in MLflow.")
    recipe: str = Field(description="The recipe that all trials share: a file, relative to this one, or a name.")
    overrides: dict[str, Any] = Field({}, description="Values by dotted key that are laid over the recipe.")
    space: dict[str, Any] = Field(min_length=1, description="The recipe's keys that vary, and over what.")
    constraints: tuple[str, ...] = Field(
        (), strict=False, description="Conditions over recipe keys that every configuration has to meet."
    )
    objectives: tuple[ObjectiveSection, ...] = Field(
        min_length=1, strict=False, description="One, or several for a trade-off."
    )
    search: SearchSection
    scheduler: SchedulerSection = SchedulerSection()
    replicas: int = Field(1, ge=1, description="Seeds that every configuration is run with.")
    concurrency: int | None = Field(
        None, ge=1, description="Trials that run side by side; none: as many as the machines have room for."
    )
    budget: SweepBudgetSection = SweepBudgetSection()

    @field_validator("name")
    @classmethod
    def _file_name(cls, name: str) -> str:
        return folder_name(name)

    @model_validator(mode="after")
    def _comparable(self) -> Sweep:
        if len(self.objectives) > 1 and self.scheduler.kind != "none":
            raise ValueError("a scheduler compares trials by one objective; with several, set scheduler.kind to none")
        if self.scheduler.kind == "pbt" and (self.replicas > 1 or self.search.method == "tpe"):
            raise ValueError("pbt changes trials while they run: it goes with search.method random or grid, replicas 1")
        if self.scheduler.kind == "hyperband" and self.search.method == "tpe":
            raise ValueError(
                "hyperband begins all trials of a bracket before one has ended, so tpe has nothing to learn from: take "
                "search.method random or grid, or scheduler.kind asha"
            )
        return self


Assignment = Mapping[str, Any]
"""Values of searched keys by dotted key, without keys whose condition does not hold."""

NOTHING: Assignment = {}

SHARES = (0.0, 0.25, 0.5, 0.75, 0.999)
"""Quantiles at which the ranges in a condition are tried."""

MEASURES = ("length", "batch", "evaluation")
"""Sections that determine how many samples a trial sees and how it is evaluated."""

DOTTED = ("space", "overrides")
"""Sections of a sweep whose keys are dotted."""

RESERVED = ("name", "storage", "tracking", "seed")
"""Keys that the sweep sets itself."""


@dataclass(frozen=True, slots=True)
class ResolvedSweep:
    """A checked sweep.

    Args:
        sweep: its sections.
        parameters: the searched keys, each after those in its condition.
        constraints: conditions that every configuration satisfies.
        base: the recipe's document with the sweep's overrides.
        filled: all values of that recipe, defaults included; conditions refer to these.
        written: the sweep's own file, with the location of its values.
    """

    sweep: Sweep
    parameters: tuple[Parameter, ...]
    constraints: tuple[Condition, ...]
    base: Document
    filled: Document
    written: Document

    def location(self, *key_path: str | int) -> str:
        """Return `file:line` of a value of the sweep."""
        return self.written.location(key_path)

    def active(self, drawn: Assignment) -> dict[str, Any]:
        """Return those of the drawn values whose conditions hold, in the order of the parameters."""
        filled, active = self.filled.copy(), dict[str, Any]()
        for parameter in self.parameters:
            if parameter.key in drawn and (parameter.when is None or parameter.when.holds(filled.to_dict())):
                filled.set(parameter.key, drawn[parameter.key])
                active[parameter.key] = drawn[parameter.key]
        return active

    def allowed(self, assignment: Assignment) -> bool:
        """Return whether a configuration satisfies the constraints."""
        values = _with(self.filled, assignment).to_dict()
        return all(constraint.holds(values) for constraint in self.constraints)

    def recipe(self, assignment: Assignment, more: Assignment = NOTHING) -> ResolvedRecipe:
        """Return the recipe of a configuration.

        Args:
            assignment: values of the searched keys.
            more: values of further keys.

        Raises:
            RecipeError: the values are not a valid recipe.
        """
        document = _with(self.base, {**assignment, **more})
        return resolve(document, {"name": self.sweep.name} | document.to_dict())

    def with_values_of(self, recipe: ResolvedRecipe) -> ResolvedSweep:
        """Return the sweep over another recipe: that of no configuration, with some values changed."""
        before, values = flatten(self.filled.to_dict()), flatten(recipe.values())
        changed = {key: value for key, value in values.items() if value != before.get(key)}
        base, filled = _with(self.base, changed), _with(self.filled, changed)
        overrides = {key: value_at(base.to_dict(), tuple(key.split("."))) for key in self.sweep.overrides}
        return replace(self, sweep=self.sweep.model_copy(update={"overrides": overrides}), base=base, filled=filled)


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> ResolvedSweep:
    """Read and check a sweep and its base recipe. Nothing is started.

    Args:
        path: the sweep's file.
        overrides: `key.path=value` over the sweep's own keys, such as `search.trials=9` or `overrides.length.steps=12`.

    Raises:
        ConfigError: a file is unreadable.
        RecipeError: keys, values, ranges or conditions are wrong; all errors are listed with file and line.
    """
    document = Document.read(path)
    document.refuse_variables()
    for assignment in overrides:
        document.override(assignment, DOTTED)
    values = {"name": path.stem} | document.to_dict()
    sweep = validate(Sweep, values, document)
    if isinstance(sweep, list):
        raise RecipeError(sweep)
    base = _base_recipe(path.parent, sweep, document)
    filled = Document(base.origin, resolve(base, {"name": sweep.name} | base.to_dict()).values(), {})
    resolved = ResolvedSweep(sweep, *_space(sweep, document), base, filled, document)
    _check_values(resolved, document)
    return resolved


def _base_recipe(folder: Path, sweep: Sweep, document: Document) -> Document:
    try:
        recipe = find_file(RECIPES, sweep.recipe, folder)
    except ConfigError as error:
        raise RecipeError([Finding(document.location(("recipe",)), f"recipe: {error}")]) from error
    base = read_extended(recipe.path)
    base.notes = (*filter(None, [recipe.note]), *base.notes)
    base.pop("name")
    for key, value in sweep.overrides.items():
        _set_override(base, key, value, document.location(("overrides", key)))
    return base


def _with(document: Document, values: Assignment) -> Document:
    changed = document.copy()
    for key, value in values.items():
        changed.set(key, value)
    return changed


def _set_override(base: Document, key: str, value: Any, location: str) -> None:
    try:
        base.set(key, value, location)
    except ConfigError as error:
        raise RecipeError([Finding(location, str(error))]) from error


def _space(sweep: Sweep, document: Document) -> tuple[tuple[Parameter, ...], tuple[Condition, ...]]:
    findings, parameters, constraints = [], [], []
    for key, written in sweep.space.items():
        try:
            _check_key(key, sweep.scheduler.kind)
            parameters.append(parse_parameter(key, written))
        except (SpaceError, ConditionError) as error:
            findings.append(Finding(document.location(("space", key)), f"space.{key}: {error}"))
    for number, text in enumerate(sweep.constraints):
        try:
            constraints.append(Condition.parse(text))
        except ConditionError as error:
            findings.append(Finding(document.location(("constraints", number)), f"constraints: {error}"))
    if findings:
        raise RecipeError(findings)
    return _in_order(parameters, document), tuple(constraints)


def _check_key(key: str, scheduler: str) -> None:
    section = key.split(".", maxsplit=1)[0]
    if section in RESERVED:
        raise SpaceError(f"is set by the sweep itself; so are all of {', '.join(RESERVED)}")
    if section in MEASURES and scheduler != "none":
        raise SpaceError(
            f"{scheduler} compares trials while they run, and trials that differ in {', '.join(MEASURES)} are not "
            "comparable then; set scheduler.kind to none, or let the key be the same for all (overrides)"
        )


def _in_order(parameters: Sequence[Parameter], document: Document) -> tuple[Parameter, ...]:
    """Sort the parameters so that the keys in a condition, and the sections that contain them, come before it."""
    left, ordered = list(parameters), list[Parameter]()
    while left:
        ready = [
            parameter
            for parameter in left
            if not any(_depends_on(parameter, other.key) for other in left if other is not parameter)
        ]
        if not ready:
            circle = ", ".join(parameter.key for parameter in left)
            raise RecipeError(
                [Finding(document.location(("space",)), f"space: the conditions of {circle} form a circle.")]
            )
        ordered += ready
        left = [parameter for parameter in left if parameter not in ready]
    return tuple(ordered)


def _depends_on(parameter: Parameter, key: str) -> bool:
    """Return whether a parameter depends on another searched key: one in its condition, or its own section."""
    conditions = parameter.when.keys if parameter.when else ()
    return _within(parameter.key, key) or any(
        other == key or _within(other, key) or _within(key, other) for other in conditions
    )


def _within(key: str, section: str) -> bool:
    return key.startswith(f"{section}.")


def _check_values(resolved: ResolvedSweep, document: Document) -> None:
    """Check the edges of every range as recipes, so that a wrong key or an invalid value is found before a trial."""
    findings: dict[str, Finding] = {}
    edges = ((parameter, edge) for parameter in resolved.parameters for edge in parameter.domain.edges())
    for parameter, edge in edges:
        try:
            resolved.recipe(_assignment_with(resolved, parameter, edge))
        except RecipeError as error:
            message = "; ".join(finding.message for finding in error.findings)
        except (ConfigError, ConditionError) as error:
            message = str(error)
        else:
            continue
        location = document.location(("space", parameter.key))
        findings.setdefault(parameter.key, Finding(location, f"space.{parameter.key}: {message}"))
    if findings:
        raise RecipeError(list(findings.values()))


def _assignment_with(resolved: ResolvedSweep, parameter: Parameter, edge: Any) -> Assignment:
    """Return an edge of a parameter, with values of other keys for which its condition holds; empty if none do."""
    needed = {parameter.key: edge}
    if parameter.when is None:
        return needed
    others = [other for other in resolved.parameters if _depends_on(parameter, other.key)]
    for share in SHARES:
        active = resolved.active({other.key: other.domain.quantile(share) for other in others} | needed)
        if parameter.key in active:
            return active
    return NOTHING
