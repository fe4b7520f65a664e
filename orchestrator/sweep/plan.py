"""What a sweep will do, worked out before anything is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.errors import ConfigError
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.decoder import Node
from orchestrator.sweep.estimate import Room, TrialNeeds, side_by_side
from orchestrator.sweep.folder import SweepError, SweepFolder
from orchestrator.sweep.sampler import configurations
from orchestrator.sweep.validate import check_reports, report_steps
from orchestrator.track.cost import read_starts
from orchestrator.track.metric_log import now_ms
from orchestrator.track.tracker import flatten
from orchestrator.train.driver import groups_of
from orchestrator.train.plan import Plan, make_plan
from orchestrator.train.resources import largest, present_nodes

FREE_TO_CHANGE = ("budget.", "concurrency", "search.trials")
"""Keys of a sweep that may be other ones when it is continued."""

ALIVE_S = 30.0
"""A driver writes down more often than this that it is there."""


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """A sweep together with the data that it found.

    Args:
        sweep: the sweep.
        base: the plan of the recipe that all trials share.
        folder: where the sweep will be written.
    """

    sweep: ResolvedSweep
    base: Plan
    folder: SweepFolder

    @property
    def trials(self) -> int:
        """Trials of the whole sweep."""
        return configurations(self.sweep) * self.sweep.sweep.replicas

    @property
    def report_steps(self) -> int:
        """Steps from report to report, of figures that every step has."""
        return report_steps(self.sweep, self.base.steps)


def make_sweep_plan(sweep: ResolvedSweep) -> SweepPlan:
    """Look at the data that a sweep's recipe names.

    Raises:
        StorageError: storage cannot be reached.
        DataSetError: the data is missing, not indexed, or does not match its index.
        ConfigError: a trial asks for more than the machine has, or starts from an unfit checkpoint.
        RecipeError: trials would not report often enough for the scheduler.
    """
    base = make_plan(sweep.recipe({}))
    check_reports(sweep, base.steps)
    recipe = base.recipe
    folder = SweepFolder(locate(f"{recipe.storage.uri}/{sweep.sweep.name}", recipe.storage.endpoint))
    return SweepPlan(sweep, base, folder)


def check_new(folder: SweepFolder) -> None:
    """Refuse a folder that is taken.

    Raises:
        SweepError: a sweep or a run of this name exists.
    """
    if folder.exists() or RunFolder(folder.root).exists():
        raise SweepError(
            f"{folder.root.uri}: a sweep or a run of this name exists. Continue a sweep with "
            f"fuseray sweep --resume {folder.root.uri}, or start another with name=OTHER."
        )


def check_left(folder: SweepFolder, clock_ms: Callable[[], int] = now_ms) -> None:
    """Refuse to continue a sweep whose driver is still there.

    Args:
        folder: the sweep's folder.
        clock_ms: the time in milliseconds since 1970.

    Raises:
        SweepError: it seems to be.
    """
    if folder.read().status != "RUNNING":
        return
    seen_s = (clock_ms() - max((start.end_ms for start in read_starts(folder.costs)), default=0)) / 1000
    if seen_s < ALIVE_S:
        raise SweepError(
            f"{folder.root.uri}: the sweep's driver was there {max(seen_s, 0):.0f} s ago, and two would disturb each "
            f"other. Stop it first; if it was killed, try again in {ALIVE_S:.0f} s."
        )


def changed_keys(before: ResolvedSweep, now: ResolvedSweep) -> list[str]:
    """Return the keys of a sweep, and of its recipe, that may not change when it is continued and did."""
    old, new = _fixed(before), _fixed(now)
    return [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]


def _fixed(sweep: ResolvedSweep) -> dict[str, Any]:
    spec = flatten(sweep.sweep.model_dump(mode="json", exclude={"recipe", "overrides"}))
    kept = {key: value for key, value in spec.items() if not key.startswith(FREE_TO_CHANGE)}
    return kept | flatten({"recipe": sweep.recipe({}).values()})


# The machines that trials share, and how many of them run side by side there.


def cluster_room(recipe: Recipe, prices: PriceTable | None) -> Room:
    """Return what there is on the cluster that was joined: on one that grows, with all machines that may come.

    Args:
        recipe: of any trial.
        prices: what is known of types of machines.
    """
    groups = groups_of(recipe)
    grown = None if groups is None else largest(groups, prices.machines if prices else {})
    return _room(present_nodes() if grown is None else grown)


def room_here() -> Room:
    """Return what there is on this machine."""
    import torch

    return Room(os.cpu_count() or 1, torch.cuda.device_count())


def trials_at_a_time(trials: int, concurrency: int | None, recipe: Recipe, room: Room) -> int:
    """Return how many trials run at a time.

    Args:
        trials: of the whole sweep.
        concurrency: the most that the user wants; None for any number.
        recipe: of any trial.
        room: what there is for all.

    Raises:
        ConfigError: there is no room for one.
    """
    needs = TrialNeeds.of(recipe)
    found, bound = side_by_side(trials, concurrency, needs, room)
    if found == 0:
        wanted = f" and {needs.gpus} GPUs" if needs.gpus else ""
        raise ConfigError(
            f"scale: a trial needs {needs.cpus:g} CPUs{wanted}; there are {room.cpus:g} CPUs and {room.gpus:g} GPUs, "
            f"too few {bound}. Lower scale.workers or scale.cpus_per_worker by the sweep's overrides, or name a larger "
            "cluster."
        )
    return found


def _room(nodes: Sequence[Node]) -> Room:
    return Room(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
