"""How many trials the machines have room for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from orchestrator.spec.errors import SpecError
from orchestrator.spec.prices import PriceTable
from orchestrator.spec.recipe import Recipe
from orchestrator.stream.placement import Node
from orchestrator.train.driving import groups_of
from orchestrator.train.growth import largest
from orchestrator.train.machines import present_nodes


def machines_of(recipe: Recipe, prices: PriceTable | None) -> Sequence[Node]:
    """Return the machines that a sweep can have: those of a cluster that grows when all are there.

    Args:
        recipe: of any trial; Ray is connected.
        prices: what is known of types of machines.
    """
    groups = groups_of(recipe)
    grown = None if groups is None else largest(groups, prices.machines if prices else {})
    return present_nodes() if grown is None else grown


def this_machine() -> Sequence[Node]:
    """Return this machine alone."""
    import torch

    return [Node(os.cpu_count() or 1, torch.cuda.device_count())]


def room(recipe: Recipe, nodes: Sequence[Node]) -> int:
    """Return how many trials fit side by side, each with its fewest workers and its CPUs for reading.

    Raises:
        SpecError: not even one does.
    """
    scale, cpus, gpus = recipe.scale, sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    needed = scale.fewest_workers * scale.cpus_per_worker + recipe.stream.reader_cpus
    fitting = int(cpus / needed + 1e-9)
    if scale.use_gpu:
        fitting = min(fitting, int(gpus // scale.fewest_workers))
    if fitting < 1:
        wanted = f" and {scale.fewest_workers} GPUs" if scale.use_gpu else ""
        raise SpecError(
            f"scale: a trial needs {needed:g} CPUs{wanted}; there are {cpus:g} CPUs and {gpus:g} GPUs. Lower "
            "scale.workers or scale.cpus_per_worker by the sweep's overrides, or name a larger cluster."
        )
    return fitting


def side_by_side(concurrency: int | None, trials: int, recipe: Recipe, nodes: Sequence[Node]) -> int:
    """Return how many trials run at a time.

    Args:
        concurrency: as the user wants it; None for as many as there is room for.
        trials: of the whole sweep.
        recipe: of any trial.
        nodes: the machines.

    Raises:
        SpecError: there is no room for one, or not for as many as the user wants.
    """
    fitting = room(recipe, nodes)
    if concurrency is not None and concurrency > fitting:
        raise SpecError(
            f"concurrency: {concurrency} trials side by side are wanted, and the machines have room for {fitting}, "
            "by scale.workers, scale.cpus_per_worker and stream.reader_cpus. Lower it, or leave it out."
        )
    return min(concurrency or fitting, trials)
