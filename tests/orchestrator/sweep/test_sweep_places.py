"""The places that a sweep's record holds: absolute, so that it is resumed and reported from any folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shards import write_shards

from orchestrator.config.sweep import load_sweep
from orchestrator.storage.location import locate
from orchestrator.sweep.folder import SweepFolder, store_sweep, stored_sweep
from orchestrator.sweep.plan import SweepPlan, changed_keys, make_sweep_plan

RECIPE = """\
workload: albef
data: {train: data/train}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 30}
scale: {cpus_per_worker: 0.5}
model: {preset: tiny}
"""
SWEEP = """\
recipe: mine.yaml
overrides: {data.held_out: data/train, evaluation: {every_steps: 10}}
objectives: [{metric: loss, mode: min}]
space: {distillation.alpha: "uniform(0, 0.8)"}
search: {method: random, trials: 3}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with data, a recipe and a sweep."""
    folder = tmp_path / "home"
    write_shards(str(folder / "data"), 50)
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "alpha.yaml").write_text(SWEEP)
    monkeypatch.chdir(folder)
    return folder


def stored(home: Path) -> SweepPlan:
    plan = make_sweep_plan(load_sweep(home / "alpha.yaml"))
    store_sweep(plan.folder, plan.sweep)
    return plan


def go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_stored_sweep_has_absolute_places(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = stored(home)
    go_elsewhere(tmp_path, monkeypatch)
    again = make_sweep_plan(stored_sweep(plan.folder))
    recipe = again.sweep.recipe({"distillation.alpha": 0.5}).recipe
    assert (recipe.data.train, recipe.data.held_out) == (f"{home}/data/train", f"{home}/data/train")
    assert recipe.storage.uri == f"{home}/runs"
    assert recipe.tracking.uri == f"sqlite:///{home}/runs/mlflow.db"
    assert recipe.evaluation.every_steps == 10
    assert changed_keys(stored_sweep(plan.folder), again.sweep) == []


def test_a_sweeps_file_from_another_folder_is_the_same_sweep(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = stored(home)
    go_elsewhere(tmp_path, monkeypatch)
    storage = f'overrides={{"data.held_out": "data/train", "evaluation.every_steps": 10, "storage.uri": "{home}/runs"}}'
    again = make_sweep_plan(load_sweep(home / "alpha.yaml", [storage]))
    assert again.folder == plan.folder
    assert changed_keys(stored_sweep(plan.folder), again.sweep) == []


def test_a_relative_record_is_the_same_sweep_in_its_own_folder(home: Path) -> None:
    """As earlier versions stored it."""
    sweep = load_sweep(home / "alpha.yaml")
    folder = SweepFolder(locate("runs/alpha"))
    store_sweep(folder, sweep)
    assert changed_keys(stored_sweep(folder), make_sweep_plan(sweep).sweep) == []
    assert make_sweep_plan(stored_sweep(folder)).sweep.recipe({}).recipe.data.train == f"{home}/data/train"


def test_a_sweep_that_moved_with_its_data(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(home)
    moved = Path(shutil.move(home, tmp_path / "moved"))
    go_elsewhere(tmp_path, monkeypatch)
    recipe = stored_sweep(SweepFolder(locate(f"{moved}/runs/alpha"))).recipe({}).recipe
    assert (recipe.data.train, recipe.data.held_out) == (f"{moved}/data/train", f"{moved}/data/train")
    assert recipe.storage.uri == f"{moved}/runs"
