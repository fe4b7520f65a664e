from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.sweep.folder import SweepError, SweepFile, SweepFolder
from orchestrator.sweep.plan import changed_keys, check_driver_stopped, check_folder_unused
from orchestrator.track.cost import StartUsage, write_start

Make = Callable[..., ResolvedSweep]


def test_a_name_is_taken_once(folder: SweepFolder, file: SweepFile) -> None:
    check_folder_unused(folder)
    folder.write(file)
    with pytest.raises(SweepError, match=r"a sweep or a run of this name exists. Continue a sweep with fuseray sweep"):
        check_folder_unused(folder)


def test_a_run_of_the_name_is_not_overwritten(folder: SweepFolder) -> None:
    RunFolder(folder.root).write(RunFile("alpha", "1", "2", "sqlite:///x", "3", 6, "2026-01-01T00:00:00", "FINISHED"))
    with pytest.raises(SweepError, match=r"a sweep or a run of this name exists"):
        check_folder_unused(folder)


def test_a_sweep_is_continued_when_its_driver_is_gone(folder: SweepFolder, file: SweepFile) -> None:
    folder.write(file)
    check_driver_stopped(folder, lambda: 100_000)
    write_start(folder.costs, StartUsage(10_000, 50_000))
    with pytest.raises(SweepError, match=r"the sweep's driver was there 29 s ago, and two would disturb each other"):
        check_driver_stopped(folder, lambda: 79_000)
    check_driver_stopped(folder, lambda: 80_000)
    folder.write(replace(file, status="KILLED"))
    check_driver_stopped(folder, lambda: 50_000)


def test_what_may_change_when_a_sweep_is_continued(make: Make) -> None:
    before = make()
    assert changed_keys(before, make("search.trials=9", "budget.usd=3", "concurrency=2")) == []
    assert changed_keys(before, make("replicas=2", "search.seed=1")) == ["replicas", "search.seed"]
    assert changed_keys(before, make("overrides.optimizer.learning_rate=0.5")) == ["recipe.optimizer.learning_rate"]
