"""The plan of a sweep before anything starts: its recipe's plan, its folder, and how many trials run at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.commands import command_line
from orchestrator.config.document import flatten
from orchestrator.config.errors import ConfigError
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe
from orchestrator.config.recipe_paths import with_absolute_paths
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.decoder import Node
from orchestrator.sweep.estimate import Capacity, TrialResources, max_concurrent_trials
from orchestrator.sweep.folder import SweepError, SweepFolder
from orchestrator.sweep.sampler import configuration_count
from orchestrator.sweep.validate import check_reports, report_steps
from orchestrator.train.driver import autoscaling_groups
from orchestrator.train.plan import Plan, make_plan
from orchestrator.train.resources import nodes_at_full_size, present_nodes

CHANGEABLE_KEYS = ("budget.", "concurrency", "search.trials")
"""Prefixes of keys of a sweep that may change when it is resumed."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep, the plan of its recipe, and its folder.

    Args:
        sweep: the sweep.
        base: the plan of the recipe that all trials share.
        folder: where the sweep is stored.
    """

    sweep: ResolvedSweep
    base: Plan
    folder: SweepFolder

    @property
    def trials(self) -> int:
        """Trials of the whole sweep."""
        return configuration_count(self.sweep) * self.sweep.sweep.replicas

    @property
    def report_steps(self) -> int:
        """Steps between two reports, for metrics that every step has."""
        return report_steps(self.sweep, self.base.steps)


def make_sweep_plan(sweep: ResolvedSweep) -> SweepPlan:
    """Read the data that a sweep's recipe names, and plan the sweep; the plan's recipe has absolute paths.

    Raises:
        StorageError: storage cannot be reached.
        DataSetError: the data is missing, not indexed, or does not match its index.
        ConfigError: a trial needs more than the machine has, or starts from an incompatible checkpoint.
        RecipeError: trials would not report often enough for the scheduler.
    """
    base = make_plan(sweep.recipe({}))
    check_reports(sweep, base.steps)
    recipe = base.recipe
    folder = SweepFolder(locate(f"{recipe.storage.uri}/{sweep.sweep.name}", recipe.storage.endpoint))
    return SweepPlan(sweep.with_values_of(base.resolved), base, folder)


def check_folder_unused(folder: SweepFolder) -> None:
    """Refuse a folder that is in use.

    Raises:
        SweepError: a sweep or a run of this name exists.
    """
    if folder.exists() or RunFolder(folder.root).exists():
        command = command_line("sweep", resume=folder.root.uri, endpoint=folder.root.endpoint)
        raise SweepError(
            f"{folder.root.uri}: a sweep or a run of this name exists. Continue a sweep with `{command}`, or start "
            "another with name=OTHER."
        )


def changed_keys(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Return the keys of a sweep, and of its recipe, that must not change when it is resumed, but did.

    Relative paths are relative to the current folder.
    """
    old, new = _unchangeable(before), _unchangeable(now)
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def _unchangeable(sweep: ResolvedSweep) -> dict[str, Any]:
    spec = flatten(sweep.sweep.model_dump(mode="json", exclude={"recipe", "overrides"}))
    fixed = {key: value for key, value in spec.items() if not key.startswith(CHANGEABLE_KEYS)}
    return fixed | flatten({"recipe": with_absolute_paths(sweep.recipe({}), Path.cwd()).values()})


def cluster_capacity(recipe: Recipe, prices: PriceTable | None) -> Capacity:
    """Return the capacity of the cluster that Ray is connected to; of one that autoscales, at its maximum size.

    Args:
        recipe: of any trial.
        prices: the price table, which knows the machines' types; None when there is none.
    """
    groups = autoscaling_groups(recipe)
    grown = None if groups is None else nodes_at_full_size(groups, prices.machines if prices else {})
    return _capacity(present_nodes() if grown is None else grown)


def local_capacity() -> Capacity:
    """Return the capacity of this machine."""
    import torch

    return Capacity(os.cpu_count() or 1, torch.cuda.device_count())


def concurrent_trials(trials: int, concurrency: int | None, recipe: Recipe, capacity: Capacity) -> int:
    """Return how many trials run at a time.

    Args:
        trials: of the whole sweep.
        concurrency: the limit that the user sets; None for no limit.
        recipe: of any trial.
        capacity: what all trials share.

    Raises:
        ConfigError: not even one fits.
    """
    needs = TrialResources.of(recipe)
    trials_at_a_time, bound = max_concurrent_trials(trials, concurrency, needs, capacity)
    if trials_at_a_time == 0:
        gpus = f" and {needs.gpus} GPUs" if needs.gpus else ""
        raise ConfigError(
            f"scale: a trial needs {needs.cpus:g} CPUs{gpus}; there are {capacity.cpus:g} CPUs and "
            f"{capacity.gpus:g} GPUs, "
            f"too few {bound}. Lower scale.workers or scale.cpus_per_worker by the sweep's overrides, or name a larger "
            "cluster."
        )
    return trials_at_a_time


def _capacity(nodes: Sequence[Node]) -> Capacity:
    return Capacity(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
