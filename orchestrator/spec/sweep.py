"""The sections of a sweep's YAML."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.spec.names import folder_name
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
