"""What a cluster can become, as the run's driver needs to know it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from orchestrator.config.cluster import NodeGroup
from orchestrator.config.prices import Machine
from orchestrator.config.recipe import Recipe
from orchestrator.stream.decoder import Node

Bundle = dict[str, float]
"""What is to be free on one machine, by Ray's names of resources."""


def largest(groups: Iterable[NodeGroup], machines: Mapping[str, Machine]) -> list[Node] | None:
    """Return the machines that a cluster has when all that may come are there; None when that cannot be told.

    Args:
        groups: as the cluster's file describes them.
        machines: what is known of types of machines, for groups whose file leaves their CPUs to the machine.
    """
    nodes: list[Node] = []
    for group in groups:
        known = machines.get(group.machine) if group.machine is not None else None
        cpus = group.cpus if group.cpus is not None else known.cpus if known is not None else None
        if cpus is None:
            return None
        nodes += [Node(cpus, group.gpus)] * group.most
    return nodes


def least_bundles(recipe: Recipe) -> list[Bundle]:
    """Return what has to be free before a run can begin: its fewest workers, and CPUs to read with."""
    return [worker_bundle(recipe)] * recipe.scale.fewest_workers + reader_bundles(recipe.stream.reader_cpus)


def worker_bundle(recipe: Recipe) -> Bundle:
    """Return what one worker reserves."""
    cpus: Bundle = {"CPU": recipe.scale.cpus_per_worker}
    return cpus | {"GPU": 1.0} if recipe.scale.use_gpu else cpus


def reader_bundles(reader_cpus: float) -> list[Bundle]:
    """Return what is kept free for reading: whole CPUs, on whatever machines."""
    return [{"CPU": 1.0}] * math.ceil(reader_cpus)


def in_words(nodes: Iterable[Node]) -> str:
    """Return how much some machines offer."""
    found = list(nodes)
    gpus = sum(node.gpus for node in found)
    of_gpus = f" and {gpus:g} GPUs" if gpus else ""
    return f"{len(found)} machines with {sum(node.cpus for node in found):g} CPUs{of_gpus}"


def needs_in_words(recipe: Recipe) -> str:
    """Return what a run cannot begin without."""
    scale, each = recipe.scale, "1 GPU and " if recipe.scale.use_gpu else ""
    return (
        f"{scale.fewest_workers} x {each}{scale.cpus_per_worker:g} CPUs for workers and "
        f"{recipe.stream.reader_cpus:g} CPUs for reading"
    )
