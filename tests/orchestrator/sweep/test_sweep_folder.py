from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.sweep import ResolvedSweep
from orchestrator.sweep.folder import (
    Point,
    SweepError,
    SweepFile,
    SweepFolder,
    TrialRecord,
    find_sweep,
    store_sweep,
    stored_sweep,
)

Make = Callable[..., ResolvedSweep]


def test_what_is_known_of_trials_is_kept(folder: SweepFolder, tmp_path: Path) -> None:
    points = (Point(120, (0.5,)), Point(240, (0.4,)))
    start = {"checkpoint": "c", "take": "everything"}
    late = TrialRecord(number=10, replica=0, assignment={"a": 1}, status="RUNNING", points=points, run="r", start=start)
    early = TrialRecord(number=2, replica=1, assignment={"a": {"b": [1]}}, status="FAILED", reason="why")
    assert folder.trials() == []
    folder.write_trial(late)
    folder.write_trial(early)
    assert folder.trials() == [early, late]
    assert late.name == "trial-0010-0"
    (tmp_path / "runs" / "alpha" / "trials" / "trial-0002-1.json").write_text("{")
    with pytest.raises(SweepError, match=r"trial-0002-1.json: is damaged"):
        folder.trials()


def test_a_sweep_is_found_by_name_and_by_place(folder: SweepFolder, file: SweepFile, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"is not a sweep"):
        folder.read()
    with pytest.raises(SweepError, match=r"no sweep 'alpha' below .*runs"):
        find_sweep("alpha", str(tmp_path / "runs"))
    folder.write(file)
    assert find_sweep("alpha", str(tmp_path / "runs")).read() == file
    assert find_sweep(str(tmp_path / "runs" / "alpha"), "elsewhere").read() == file
    folder.write(replace(file, status="KILLED", reason="asked"))
    assert folder.read().reason == "asked"
    (tmp_path / "runs" / "alpha" / "sweep.json").write_text('{"name": "alpha"}')
    with pytest.raises(SweepError, match=r"sweep.json: is damaged"):
        folder.read()


def test_a_stored_sweep_needs_none_of_the_files_that_it_came_from(
    make: Make, folder: SweepFolder, tmp_path: Path
) -> None:
    (tmp_path / "base.yaml").write_text((tmp_path / "mine.yaml").read_text())
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nseed: 7\n")
    sweep = make("replicas=2", 'overrides={"optimizer.learning_rate": 0.5}', 'constraints=["distillation.alpha < 0.7"]')
    store_sweep(folder, sweep)
    for name in ("base.yaml", "mine.yaml", "alpha.yaml"):
        (tmp_path / name).unlink()
    found = stored_sweep(folder, ("search.trials=9",))
    assert found.sweep.search.trials == 9
    assert found.sweep.replicas == 2
    assert found.sweep.name == "alpha"
    assignment = {"distillation.alpha": 0.25}
    recipe = found.recipe(assignment)
    assert (recipe.recipe.seed, recipe.recipe.optimizer.learning_rate) == (7, 0.5)
    assert recipe.digest() == sweep.recipe(assignment).digest()
    assert not found.allowed({"distillation.alpha": 0.75})
