"""A sweep whose driver is killed in the middle ends as it would have: one trial finishes, one is stopped, one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import preloaded
import pytest
from mlflow.tracking import MlflowClient
from mlflow_database import new_database
from paced_workload import write_pace
from shards import write_shards
from small_recipes import PACED
from toyland import install_toyland, with_toyland
from waiting import wait_for

from orchestrator.storage.lease import LEASE_FILE
from orchestrator.storage.location import locate
from orchestrator.sweep.folder import Point, SweepFolder

RECIPE = f"""\
{PACED}
length: {{steps: 16}}
schedule: {{warmup_steps: 0}}
checkpoint: {{every_steps: 4}}
"""
SWEEP = """\
name: rates
recipe: recipe.yaml
objectives: [{metric: loss, mode: min}]
space: {optimizer.learning_rate: [1.0e-3, 1.0e-8, 1.0e+20]}
search: {method: grid}
scheduler: {kind: asha, first_rung: 0.5, reduction: 2}
"""
RUNS = ["rates", "trial-0000-0", "trial-0001-0", "trial-0002-0"]


STEP_S = 0.3


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", "sweep", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | with_toyland(folder / "site")


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return preloaded.fuseray("sweep", *arguments, folder=folder, environment=environment(folder), timeout_s=1200)


def reported(folder: SweepFolder, number: int) -> tuple[Point, ...]:
    return next((record.points for record in folder.trials() if record.number == number), ())


@pytest.mark.timeout(1800)
def test_a_sweep_survives_the_death_of_its_driver(tmp_path: Path) -> None:
    data = write_shards(str(tmp_path / "data"), 64)
    (tmp_path / "recipe.yaml").write_text(f"{RECIPE}data: {{train: {data}}}\npace: {tmp_path}/pace\n")
    write_pace(tmp_path / "pace", STEP_S, hold=1_000_000)
    install_toyland(tmp_path / "site")
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    new_database(tmp_path / "runs" / "mlflow.db")
    folder = SweepFolder(locate(str(tmp_path / "runs" / "rates")))
    with (tmp_path / "first.log").open("w") as log:
        first = subprocess.Popen(
            command("sweep.yaml", "--no-plan"), cwd=tmp_path, env=environment(tmp_path), stdout=log, stderr=log
        )
        wait_for((folder.root / LEASE_FILE).exists, 600)
        second = sweep(tmp_path, "sweep.yaml", "--no-plan", "--resume", "auto")
        assert second.returncode == 1
        assert f"process {first.pid} on " in second.stderr
        wait_for(lambda: bool(reported(folder, 1)) or first.poll() is not None, 600)
        assert first.poll() is None, (tmp_path / "first.log").read_text()
        first.kill()
        first.wait()
    killed = reported(folder, 1)

    _check_own_objective(tmp_path)
    again = sweep(tmp_path, "--resume", "rates", "--json")
    assert again.returncode == 0, again.stderr
    _check_trials(folder, killed)
    _check_mlflow(tmp_path, json.loads(again.stdout))


def _check_own_objective(folder: Path) -> None:
    """A sweep may be judged by what the workload declares, and by nothing else."""
    (folder / "other.yaml").write_text(
        SWEEP.replace("rates", "other").replace("loss, mode: min", "agreement, mode: max")
    )
    assert sweep(folder, "other.yaml", "--no-plan", "--dry-run").returncode == 0
    (folder / "wrong.yaml").write_text(SWEEP.replace("rates", "wrong").replace("metric: loss", "metric: agreemnt"))
    wrong = sweep(folder, "wrong.yaml", "--no-plan", "--dry-run")
    assert wrong.returncode == 2
    assert "did you mean 'agreement'?" in wrong.stderr


def _check_trials(folder: SweepFolder, killed: tuple[Point, ...]) -> None:
    whole, stopped, failed = folder.trials()
    assert [one.status for one in (whole, stopped, failed)] == ["FINISHED", "STOPPED", "FAILED"]
    assert whole.points[-1].samples == 16 * 8
    assert stopped.points[-1].samples == 8 * 8
    assert stopped.points[: len(killed)] == killed
    assert "not a number" in failed.reason
    assert [folder.run(one.name).read().status for one in (whole, stopped, failed)] == ["FINISHED", "KILLED", "FAILED"]
    assert folder.read().status == "FINISHED"


def _check_mlflow(folder: Path, outcome: dict[str, object]) -> None:
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert Counter(run.info.run_name for run in client.search_runs([experiment.experiment_id])) == Counter(RUNS)
    parent = runs["rates"].info
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in RUNS[1:]} == {parent.run_id}
    assert [runs[name].info.status for name in RUNS] == ["FINISHED", "FINISHED", "KILLED", "FAILED"]
    for name in RUNS[1:3]:
        for metric in ("loss", "agreement"):
            steps = [one.step for one in client.get_metric_history(runs[name].info.run_id, metric)]
            assert steps == list(range(len(steps)))
    assert {file.path for file in client.list_artifacts(parent.run_id)} >= {"report.html", "best.yaml", "sweep.yaml"}
    assert outcome["model"] == {"uri": "models:/rates/1", "new": True}
    assert client.get_model_version("rates", "1").run_id == runs["trial-0000-0"].info.run_id
