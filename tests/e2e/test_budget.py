"""A run stops with a checkpoint when its budget is used up, and goes on when the budget is raised."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from html_page import Page, words
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from preloaded import fuseray
from shards import write_shards
from small_recipes import PACED
from toy_workload import METRICS
from toyland import install_toyland, with_toyland

from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.track.cost import Costs, read_starts
from orchestrator.track.run_writer import TrackedRun

RECIPE = f"""\
{PACED}
name: thrifty
length: {{steps: 100000}}
checkpoint: {{every_steps: 100000}}
"""


FIRST_H = 0.003


def run_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return fuseray(*arguments, folder=folder, environment=os.environ | with_toyland(folder / "site"))


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(folder, "train", "recipe.yaml", "--json", *arguments)


@pytest.mark.timeout(1800)
def test_a_run_stops_at_its_budget_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    data = write_shards(str(tmp_path / "data"), 64)
    (tmp_path / "recipe.yaml").write_text(f"{RECIPE}data: {{train: {data}, held_out: {data}}}\n")
    install_toyland(tmp_path / "site")
    _shadow_packages(tmp_path)
    new_database(tmp_path / "runs" / "mlflow.db")
    run = RunFolder(locate(str(tmp_path / "runs" / "thrifty")))

    first = train(tmp_path, f"budget.hours={FIRST_H}")
    assert first.returncode == 3, first.stderr
    outcome = json.loads(first.stdout)
    done = outcome["steps_done"]
    assert outcome["status"] == run.read().status == "KILLED"
    assert outcome["stopped_by"].startswith("budget.hours: the run has taken ")
    assert f"--resume {tmp_path}/runs/thrifty budget.hours={2 * FIRST_H:g}" in first.stderr
    assert run.newest_step() == done > 0

    again = train(tmp_path, "--resume", "thrifty", f"budget.hours={FIRST_H}")
    assert again.returncode == 2
    assert "hours already. To continue, raise the budget" in again.stderr
    assert run.read().status == "KILLED"

    tags = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").get_run(run.read().mlflow_run_id).data.tags
    assert tags["stopped_by"] == outcome["stopped_by"]
    assert tags["cost_usd"] == "0.0000"

    spent_h = Costs(read_starts(run.costs)).spent().hours
    second = train(tmp_path, "--resume", "thrifty", f"budget.hours={spent_h + FIRST_H}")
    assert second.returncode == 3, second.stderr
    assert json.loads(second.stdout)["steps_done"] > done
    starts = read_starts(run.costs)
    assert len(starts) == 2
    assert Costs(starts).spent().hours == pytest.approx(json.loads(second.stdout)["hours"], abs=1e-4)
    _check_curves(tmp_path, run)
    _check_own_metrics(tmp_path, run, first.stderr)


def _shadow_packages(folder: Path) -> None:
    """Put modules into the user's folder that nothing may import, because a command is installed elsewhere."""
    for name in ("torch", "orchestrator", "workloads"):
        (folder / f"{name}.py").write_text("raise RuntimeError\n")


def _check_curves(folder: Path, run: RunFolder) -> None:
    """Every step has its cost, and the curve goes on where the first start left it."""
    curves = TrackedRun(f"sqlite:///{folder}/runs/mlflow.db", run.read().mlflow_run_id).curves()
    steps, node_hours = curves["cost/node_hours"]
    assert steps == curves["loss"][0]
    assert node_hours == sorted(node_hours)
    assert set(curves["cost/usd"][1]) == {0.0}
    assert {metric.name for metric in METRICS.steps} <= curves.keys()


def _check_own_metrics(folder: Path, run: RunFolder, terminal: str) -> None:
    """What the workload declares is what people see: on the terminal, in an evaluation and in the report."""
    assert re.search(r"step 1/100000 loss \d+\.\d{3}  agree \d+\.\d%  \d+ samples/s", terminal)
    evaluated = run_command(folder, "evaluate", "thrifty", "evaluation.gallery=3")
    assert evaluated.returncode == 0, evaluated.stderr
    assert re.search(r"set +Samples +Words\nToy captions +all +64 ", evaluated.stdout)
    assert run_command(folder, "report", "thrifty").returncode == 0
    page = words(Page(run.report.read().decode()))
    for part in ("How toys learn", "Agreement of the towers", "Toy captions", "The first toys", "Best held-out words"):
        assert part in page
    assert "contrastive" not in page
    assert "Toy queue" in page
