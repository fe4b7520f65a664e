"""Evaluation beside a training and in actors: the figures of the workers and of one process, whatever dies."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from mlflow_database import new_database
from paced_workload import DIES, write_pace
from preloaded import fuseray
from shards import write_shards
from small_recipes import PACED
from toyland import install_toyland, with_toyland

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.run_writer import TrackedRun

STEPS, EVERY = 40, 10
RECIPE = f"""\
{PACED}
length: {{steps: {STEPS}}}
checkpoint: {{every_steps: 1000, keep: 1}}
evaluation: {{every_steps: {EVERY}, samples: 20, block: 3, compare: 2, cpus: 0.5}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings of one recipe: in one the workers measure, in the other an actor beside them."""
    folder = tmp_path_factory.mktemp("evaluation")
    data = write_shards(str(folder / "data"), 64)
    write_pace(folder / "pace", 0.2, -1)
    (folder / "recipe.yaml").write_text(f"{RECIPE}data: {{train: {data}, held_out: {data}}}\npace: {folder}/pace\n")
    install_toyland(folder / "site")
    new_database(folder / "runs" / "mlflow.db")
    for where in ("workers", "beside"):
        done = run_command(folder, "train", "recipe.yaml", f"name={where}", f"evaluation.where={where}")
        assert done.returncode == 0, done.stderr + done.stdout
    return folder


def run_command(folder: Path, *arguments: str, dies: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | with_toyland(folder / "site") | ({DIES: str(dies)} if dies else {})
    return fuseray(*arguments, folder=folder, environment=environment)


def curve(folder: Path, name: str, metric: str) -> dict[int, float]:
    run = RunFolder(locate(str(folder / "runs" / name)))
    tracked = TrackedRun(f"sqlite:///{folder}/runs/mlflow.db", run.read().mlflow_run_id)
    return dict(zip(*tracked.curve(metric), strict=True))


@pytest.mark.timeout(900)
def test_beside_the_training_the_figures_are_those_of_the_workers(folder: Path) -> None:
    inside, beside = (curve(folder, name, "held_out/distance") for name in ("workers", "beside"))
    assert list(inside) == [9, 19, 29, 39]
    assert set(beside) <= set(inside)
    assert 39 in beside
    assert beside == {step: inside[step] for step in beside}
    assert len(set(inside.values())) == 4
    assert curve(folder, "beside", "loss") == curve(folder, "workers", "loss")


@pytest.mark.timeout(900)
def test_actors_give_the_figures_of_one_process_even_if_one_dies(folder: Path, tmp_path: Path) -> None:
    here = run_command(folder, "evaluate", "workers", "--json")
    assert here.returncode == 0, here.stderr
    died = tmp_path / "died"
    there = run_command(folder, "evaluate", "workers", "--workers", "2", "--again", "--json", dies=died)
    assert there.returncode == 0, there.stderr
    assert died.exists()
    assert "an evaluation actor is lost" in there.stderr
    assert json.loads(there.stdout) == json.loads(here.stdout)
    assert not list((folder / "runs" / "workers" / "evaluation-work").glob("*"))
    chosen = run_command(folder, "evaluate", "workers", "--step", f"{STEPS}", "--again", "--json")
    assert json.loads(chosen.stdout) == json.loads(here.stdout)
    absent = run_command(folder, "evaluate", "workers", "--step", "10")
    assert "has no checkpoint of step 10; there are step-00000040" in absent.stderr
