"""The sections of a sweep's YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.config.document import Document, read_extended
from orchestrator.config.errors import ConfigError, Finding, RecipeError
from orchestrator.config.loading import ResolvedRecipe, resolve, validate
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
    """What is to become large or small."""

    metric: str = Field(description="By its name in MLflow, such as held_out/text_to_image/recall@10, or loss.")
    mode: Literal["min", "max"] = Field(description="Whether small or large values are good.")


class SchedulerSection(Section):
    """Which trials are stopped early, at equal numbers of samples seen."""

    kind: Literal["none", "asha", "hyperband", "pbt"] = Field("none", description="Ray Tune's scheduler.")
    first_rung: float = Field(
        0.1, gt=0, lt=1, description="Share of the run after which trials are first compared (asha, hyperband)."
    )
    reduction: int = Field(3, ge=2, description="Of so many trials one goes on from rung to rung (asha, hyperband).")
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
    recipe: str = Field(description="The recipe that all trials share, relative to this file.")
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


# From a sweep's file to a checked sweep, whose every configuration is a recipe.


Assignment = Mapping[str, Any]
"""Values of searched keys by dotted key; keys whose condition does not hold are not in it."""

NOTHING: Assignment = {}

SHARES = (0.0, 0.25, 0.5, 0.75, 0.999)
"""Where the ranges that a condition asks for are tried."""

MEASURES = ("length", "batch", "evaluation")
"""Sections that decide how many samples a trial sees and by what it is measured."""

DOTTED = ("space", "overrides")
"""Sections of a sweep whose keys are dotted."""

KEPT = ("name", "storage", "tracking", "seed")
"""Keys that a sweep sets itself."""


@dataclass(frozen=True, slots=True)
class ResolvedSweep:
    """A sweep that has been checked.

    Args:
        sweep: its sections.
        parameters: what is searched, each after those that its condition asks for.
        constraints: what every configuration has to meet.
        base: the recipe's document with the sweep's overrides.
        filled: all values of that recipe, defaults too; conditions are about these.
        written: the sweep's own file, which knows where its values stand.
    """

    sweep: Sweep
    parameters: tuple[Parameter, ...]
    constraints: tuple[Condition, ...]
    base: Document
    filled: Document
    written: Document

    def location(self, *key_path: str | int) -> str:
        """Return where a value of the sweep stands, as file and line."""
        return self.written.location(key_path)

    def active(self, drawn: Assignment) -> dict[str, Any]:
        """Return those of the drawn values whose conditions hold, in the order of the parameters."""
        filled, kept = self.filled.copy(), dict[str, Any]()
        for parameter in self.parameters:
            if parameter.key in drawn and (parameter.when is None or parameter.when.holds(filled.to_dict())):
                filled.set(parameter.key, drawn[parameter.key])
                kept[parameter.key] = drawn[parameter.key]
        return kept

    def allowed(self, assignment: Assignment) -> bool:
        """Return whether a configuration meets the constraints."""
        values = _with(self.filled, assignment).to_dict()
        return all(constraint.holds(values) for constraint in self.constraints)

    def recipe(self, assignment: Assignment, more: Assignment = NOTHING) -> ResolvedRecipe:
        """Return the recipe of a configuration.

        Args:
            assignment: values of the searched keys.
            more: values of further keys.

        Raises:
            RecipeError: the values do not go together.
        """
        document = _with(self.base, {**assignment, **more})
        return resolve(document, {"name": self.sweep.name} | document.to_dict())


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> ResolvedSweep:
    """Read and check a sweep and the recipe that it builds on. Nothing is started.

    Args:
        path: the sweep's file.
        overrides: `key.path=value` over the sweep's own keys, such as `search.trials=9` or `overrides.length.steps=12`.

    Raises:
        ConfigError: a file is unreadable.
        RecipeError: keys, values, ranges or conditions are wrong; all faults are listed with file and line.
    """
    document = Document.read(path)
    for assignment in overrides:
        document.override(assignment, DOTTED)
    values = {"name": path.stem} | document.to_dict()
    sweep = validate(Sweep, values, document)
    if isinstance(sweep, list):
        raise RecipeError(sweep)
    base = _base(path.parent / sweep.recipe, sweep, document)
    filled = Document(base.origin, resolve(base, {"name": sweep.name} | base.to_dict()).values(), {})
    resolved = ResolvedSweep(sweep, *_space(sweep, document), base, filled, document)
    _check_values(resolved, document)
    return resolved


def _base(recipe: Path, sweep: Sweep, document: Document) -> Document:
    if not recipe.is_file():
        raise RecipeError([Finding(document.location(("recipe",)), f"recipe: {recipe} is not there.")])
    base = read_extended(recipe)
    base.pop("name")
    for key, value in sweep.overrides.items():
        _set(base, key, value, document.location(("overrides", key)))
    return base


def _with(document: Document, values: Assignment) -> Document:
    changed = document.copy()
    for key, value in values.items():
        changed.set(key, value)
    return changed


def _set(base: Document, key: str, value: Any, location: str) -> None:
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
    if section in KEPT:
        raise SpaceError(f"is set by the sweep itself; so are all of {', '.join(KEPT)}")
    if section in MEASURES and scheduler != "none":
        raise SpaceError(
            f"{scheduler} compares trials while they run, and trials that differ in {', '.join(MEASURES)} are not "
            "comparable then; set scheduler.kind to none, or let the key be the same for all (overrides)"
        )


def _in_order(parameters: Sequence[Parameter], document: Document) -> tuple[Parameter, ...]:
    """Return the parameters so that a condition's keys, and the sections that hold them, come before it."""
    left, ordered = list(parameters), list[Parameter]()
    while left:
        ready = [one for one in left if not any(_asks_for(one, other.key) for other in left if other is not one)]
        if not ready:
            circle = ", ".join(one.key for one in left)
            raise RecipeError(
                [Finding(document.location(("space",)), f"space: the conditions of {circle} form a circle.")]
            )
        ordered += ready
        left = [one for one in left if one not in ready]
    return tuple(ordered)


def _asks_for(parameter: Parameter, key: str) -> bool:
    """Return whether another searched key decides on a parameter: its condition asks for it, or it is its section."""
    asked = parameter.when.asked if parameter.when else ()
    return _within(parameter.key, key) or any(one == key or _within(one, key) or _within(key, one) for one in asked)


def _within(key: str, section: str) -> bool:
    return key.startswith(f"{section}.")


def _check_values(resolved: ResolvedSweep, document: Document) -> None:
    """Try the edges of every range, one by one, so that a wrong key or an impossible value is found before a trial."""
    findings: dict[str, Finding] = {}
    for parameter, edge in ((one, edge) for one in resolved.parameters for edge in one.domain.edges()):
        try:
            resolved.recipe(_beside(resolved, parameter, edge))
        except RecipeError as error:
            said = "; ".join(one.message for one in error.findings)
        except (ConfigError, ConditionError) as error:
            said = str(error)
        else:
            continue
        location = document.location(("space", parameter.key))
        findings.setdefault(parameter.key, Finding(location, f"space.{parameter.key}: {said}"))
    if findings:
        raise RecipeError(list(findings.values()))


def _beside(resolved: ResolvedSweep, parameter: Parameter, edge: Any) -> Assignment:
    """Return an edge of a parameter with values of the others under which it is searched; nothing if there are none."""
    needed = {parameter.key: edge}
    if parameter.when is None:
        return needed
    others = [one for one in resolved.parameters if _asks_for(parameter, one.key)]
    for share in SHARES:
        active = resolved.active({one.key: one.domain.quantile(share) for one in others} | needed)
        if parameter.key in active:
            return active
    return NOTHING
