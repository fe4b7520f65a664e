"""The machines that trials share, and how many of them run side by side there."""

from __future__ import annotations

import os
from collections.abc import Sequence

from orchestrator.config.errors import SpecError
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe
from orchestrator.stream.decoder import Node
from orchestrator.sweep.room import Room, TrialNeeds, side_by_side
from orchestrator.train.driver import groups_of
from orchestrator.train.resources import largest, present_nodes


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
        SpecError: there is no room for one.
    """
    needs = TrialNeeds.of(recipe)
    found, bound = side_by_side(trials, concurrency, needs, room)
    if found == 0:
        wanted = f" and {needs.gpus} GPUs" if needs.gpus else ""
        raise SpecError(
            f"scale: a trial needs {needs.cpus:g} CPUs{wanted}; there are {room.cpus:g} CPUs and {room.gpus:g} GPUs, "
            f"too few {bound}. Lower scale.workers or scale.cpus_per_worker by the sweep's overrides, or name a larger "
            "cluster."
        )
    return found


def _room(nodes: Sequence[Node]) -> Room:
    return Room(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
