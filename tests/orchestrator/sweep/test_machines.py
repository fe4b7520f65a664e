from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.spec.errors import SpecError
from orchestrator.spec.recipe import Recipe
from orchestrator.spec.sweep_loading import ResolvedSweep
from orchestrator.stream.placement import Node
from orchestrator.sweep.machines import room, side_by_side

Make = Callable[..., ResolvedSweep]


def recipe(make: Make, **overrides: object) -> Recipe:
    values = ", ".join(f'"{key.replace("__", ".")}": {value}' for key, value in overrides.items())
    return make("overrides={" + values + ', "batch.micro_batches": 8}').recipe({}).recipe


def test_a_trial_takes_its_workers_and_cpus_to_read_with(make: Make) -> None:
    small = recipe(make, scale__workers=1, scale__cpus_per_worker=0.5)
    assert room(small, [Node(2, 0)]) == 1
    assert room(small, [Node(2, 0), Node(4, 0)]) == 4
    elastic = recipe(make, scale__workers=[2, 8], scale__cpus_per_worker=3)
    assert room(elastic, [Node(32, 0)]) == 4


def test_gpus_are_not_shared(make: Make) -> None:
    gpus = recipe(make, scale__workers=4, scale__cpus_per_worker=1, scale__use_gpu="true")
    assert room(gpus, [Node(96, 8)]) == 2
    assert room(gpus, [Node(96, 8), Node(96, 7)]) == 3
    with pytest.raises(SpecError, match=r"a trial needs 5 CPUs and 4 GPUs; there are 96 CPUs and 3 GPUs"):
        room(gpus, [Node(96, 3)])


def test_as_many_run_side_by_side_as_there_is_room_for_or_as_is_wanted(make: Make) -> None:
    small = recipe(make, scale__workers=1, scale__cpus_per_worker=1)
    nodes = [Node(8, 0)]
    assert side_by_side(None, 20, small, nodes) == 4
    assert side_by_side(None, 3, small, nodes) == 3
    assert side_by_side(2, 20, small, nodes) == 2
    with pytest.raises(SpecError, match=r"concurrency: 5 trials side by side are wanted, .* room for 4"):
        side_by_side(5, 20, small, nodes)
