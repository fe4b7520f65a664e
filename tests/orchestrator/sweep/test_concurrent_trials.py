"""How many trials run at a time, on which nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.config.errors import ConfigError
from orchestrator.config.recipe import Recipe
from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.estimate import Capacity, concurrency_warning
from orchestrator.sweep.folder import SweepError, SweepFile, SweepFolder
from orchestrator.sweep.plan import changed_keys, check_folder_unused, concurrent_trials

Make = Callable[..., ResolvedSweep]


def test_a_name_is_taken_once(folder: SweepFolder, file: SweepFile) -> None:
    check_folder_unused(folder)
    folder.write(file)
    with pytest.raises(SweepError, match=r"a sweep or a run of this name exists. Continue a sweep with `fuseray sweep"):
        check_folder_unused(folder)


def test_a_run_of_the_name_is_not_overwritten(folder: SweepFolder) -> None:
    RunFolder(folder.root).write(RunFile("alpha", "1", "2", "sqlite:///x", "3", 6, "2026-01-01T00:00:00", "FINISHED"))
    with pytest.raises(SweepError, match=r"a sweep or a run of this name exists"):
        check_folder_unused(folder)


def test_what_may_change_when_a_sweep_is_continued(make: Make) -> None:
    before = make()
    assert changed_keys(before, make("search.trials=9", "budget.usd=3", "concurrency=2")) == []
    assert changed_keys(before, make("replicas=2", "search.seed=1")) == ["replicas", "search.seed"]
    assert changed_keys(before, make("overrides.optimizer.learning_rate=0.5")) == ["recipe.optimizer.learning_rate"]


MANY = 1000


def recipe(make: Make, **overrides: object) -> Recipe:
    values = ", ".join(f'"{key.replace("__", ".")}": {value}' for key, value in overrides.items())
    return make("overrides={" + values + ', "batch.micro_batches": 8}').recipe({}).recipe


def test_a_trial_takes_its_workers_and_cpus_to_read_with(make: Make) -> None:
    small = recipe(make, scale__workers=1, scale__cpus_per_worker=0.5)
    assert concurrent_trials(MANY, None, small, Capacity(2, 0)) == 1
    assert concurrent_trials(MANY, None, small, Capacity(6, 0)) == 4
    tenths = recipe(make, scale__workers=3, scale__cpus_per_worker=0.1)
    assert concurrent_trials(MANY, None, tenths, Capacity(13, 0)) == 10
    elastic = recipe(make, scale__workers=[2, 8], scale__cpus_per_worker=3)
    assert concurrent_trials(MANY, None, elastic, Capacity(32, 0)) == 4


def test_gpus_are_not_shared(make: Make) -> None:
    gpus = recipe(make, scale__workers=4, scale__cpus_per_worker=1, scale__use_gpu="true")
    assert concurrent_trials(MANY, None, gpus, Capacity(96, 8)) == 2
    assert concurrent_trials(MANY, None, gpus, Capacity(192, 15)) == 3
    with pytest.raises(ConfigError, match=r"a trial needs 5 CPUs and 4 GPUs; there are 96 CPUs and 3 GPUs, .* GPUs"):
        concurrent_trials(MANY, None, gpus, Capacity(96, 3))


def test_as_many_run_side_by_side_as_there_is_room_for_or_as_is_wanted(make: Make) -> None:
    small = recipe(make, scale__workers=1, scale__cpus_per_worker=1)
    room = Capacity(8, 0)
    assert concurrent_trials(20, None, small, room) == 4
    assert concurrent_trials(3, None, small, room) == 3
    assert concurrent_trials(20, 2, small, room) == 2
    assert concurrent_trials(20, 5, small, room) == 4


@pytest.mark.parametrize(("trials", "concurrency", "at_a_time"), [(20, None, 4), (20, 4, 4), (3, 8, 3), (20, 2, 2)])
def test_nobody_is_told_of_room_that_is_enough(trials: int, concurrency: int | None, at_a_time: int) -> None:
    assert concurrency_warning(trials, concurrency, at_a_time) == ""


def test_the_user_is_told_when_fewer_trials_run_at_a_time_than_wanted() -> None:
    assert concurrency_warning(20, 8, 4) == "concurrency: there is no room for 8 trials at a time, so it is 4."
    assert concurrency_warning(6, 8, 4) == "concurrency: there is no room for 6 trials at a time, so it is 4."
