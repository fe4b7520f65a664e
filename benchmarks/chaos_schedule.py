"""Which fault strikes when: a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from numpy.random import Generator

from workloads.contract import KeyedRandom


class Kind(StrEnum):
    """What can happen to a run."""

    WORKER_KILL = "worker_kill"
    WORKER_STOP = "worker_stop"
    NODE_REMOVE = "node_remove"
    NODE_ADD = "node_add"
    PREEMPTION = "preemption"
    STORAGE_FAULT = "storage_fault"
    CHECKPOINT_CORRUPTION = "checkpoint_corruption"
    DRIVER_KILL = "driver_kill"
    MLFLOW_DOWN = "mlflow_down"


TAKES_A_NODE = (Kind.NODE_REMOVE, Kind.PREEMPTION)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a run.

    Args:
        kind: what.
        step: it strikes when this step is done, or when the run has recovered from the fault before it.
        draw: which of several workers or nodes it strikes, from 0 to below 1.
    """

    kind: Kind
    step: int
    draw: float


@dataclass(frozen=True, slots=True)
class Nodes:
    """How many nodes for workers a cluster has, at the beginning and at least and most at any time."""

    first: int
    fewest: int
    most: int


class ScheduleError(ValueError):
    """There is no such schedule."""


def schedule(seed: int, faults: int, kinds: Sequence[Kind], steps: range, nodes: Nodes) -> tuple[Fault, ...]:
    """Return the faults of a run in order, spread over some steps; every kind comes as often as the nodes allow.

    Args:
        seed: of the draws.
        faults: how many.
        kinds: which.
        steps: the steps during which they strike.
        nodes: of the cluster.

    Raises:
        ScheduleError: the steps are too few, or the kinds take more nodes than there are.
    """
    width = len(steps) // faults
    if width == 0:
        raise ScheduleError(f"{faults} faults need more than {len(steps)} steps")
    random = KeyedRandom((seed, "chaos")).numpy()
    chosen = _kinds(random, faults, kinds, nodes)
    return tuple(
        Fault(kind, steps.start + place * width + int(random.integers(0, max(1, width // 2))), float(random.random()))
        for place, kind in enumerate(chosen)
    )


def _kinds(random: Generator, faults: int, kinds: Sequence[Kind], nodes: Nodes) -> list[Kind]:
    """Draw kinds without putting back, anew whenever all were drawn, leaving out what the nodes do not allow."""
    chosen: list[Kind] = []
    bag: list[Kind] = []
    count = nodes.first
    while len(chosen) < faults:
        if not any(_possible(kind, count, nodes) for kind in bag):
            bag += [kinds[int(place)] for place in random.permutation(len(kinds))]
        found = next((kind for kind in bag if _possible(kind, count, nodes)), None)
        if found is None:
            raise ScheduleError(f"after {len(chosen)} faults {count} nodes are left; add node_add or take fewer")
        bag.remove(found)
        chosen.append(found)
        count += (found is Kind.NODE_ADD) - (found in TAKES_A_NODE)
    return chosen


def _possible(kind: Kind, count: int, nodes: Nodes) -> bool:
    if kind in TAKES_A_NODE:
        return count > nodes.fewest
    return kind is not Kind.NODE_ADD or count < nodes.most
