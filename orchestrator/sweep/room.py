"""How many trials run side by side, and why not more: a pure decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.config.recipe import Recipe
from orchestrator.plan.machines import Kind

SLACK = 1e-9
"""Sums of CPUs such as 3 x 0.1 are not exact."""

Bound = Literal["trials", "concurrency", "CPUs", "GPUs"]
"""What keeps more trials from running side by side."""


@dataclass(frozen=True, slots=True)
class Room:
    """What trials may use together.

    Args:
        cpus: infinite when nobody knows.
        gpus: of all machines.
    """

    cpus: float
    gpus: float

    @classmethod
    def of(cls, kinds: Sequence[Kind]) -> Room:
        """Return the room on a cluster with all machines that it may have."""
        there = [kind for kind in kinds if kind.group.most]
        return cls(
            sum(kind.cpus * kind.group.most for kind in there), sum(kind.group.gpus * kind.group.most for kind in there)
        )


@dataclass(frozen=True, slots=True)
class TrialNeeds:
    """What a trial has to have before it can start.

    Args:
        workers: training workers.
        cpus: of the workers and for reading.
        gpus: one for each worker, or none.
    """

    workers: int
    cpus: float
    gpus: int

    @classmethod
    def of(cls, recipe: Recipe) -> TrialNeeds:
        """Return what a trial of a recipe needs, with as few workers as it may have."""
        scale = recipe.scale
        cpus = scale.fewest_workers * scale.cpus_per_worker + recipe.stream.reader_cpus
        return cls(scale.fewest_workers, cpus, scale.fewest_workers if scale.use_gpu else 0)


def side_by_side(trials: int, concurrency: int | None, needs: TrialNeeds, room: Room) -> tuple[int, Bound]:
    """Return how many trials run at the same time, 0 when not even one has room, and what the bound is.

    Args:
        trials: of the whole sweep.
        concurrency: the most that the sweep wants; None for any number.
        needs: of one trial.
        room: what there is for all.
    """
    bounds: dict[Bound, float] = {
        "trials": trials,
        "concurrency": math.inf if concurrency is None else concurrency,
        "CPUs": room.cpus / needs.cpus + SLACK,
        "GPUs": room.gpus / needs.gpus if needs.gpus else math.inf,
    }
    bound = min(bounds, key=lambda one: math.inf if math.isinf(bounds[one]) else int(bounds[one]))
    return int(bounds[bound]), bound


def too_little_room(trials: int, concurrency: int | None, at_a_time: int) -> str:
    """Return a line for the user when fewer trials run at a time than the sweep wants; empty otherwise.

    Args:
        trials: of the whole sweep.
        concurrency: the most that the sweep wants; None for any number.
        at_a_time: how many trials run at a time.
    """
    wanted = min(concurrency or 0, trials)
    if wanted <= at_a_time:
        return ""
    return f"concurrency: there is no room for {wanted} trials at a time, so it is {at_a_time}."
