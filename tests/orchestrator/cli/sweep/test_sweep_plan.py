"""The plan of a sweep as a user sees it, on real data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from planned import BLOCKED, FOOTPRINT
from shards import write_shards

from orchestrator.cli.sweep.plan import plan_sweep, show_sweep_plan
from orchestrator.config.errors import RecipeError
from orchestrator.config.sweep import ResolvedSweep, load_sweep
from orchestrator.plan.observations import Observations
from orchestrator.plan.preflight import PreflightOptions
from orchestrator.sweep.estimate import Capacity

RECIPE = """\
workload: albef
data: {train: data/train, held_out: data/train}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
scale: {workers: 1, cpus_per_worker: 0.25}
model: {preset: tiny}
evaluation: {every_steps: 2}
checkpoint: {every_steps: 2}
"""
SWEEP = """\
recipe: mine.yaml
objectives: [{metric: held_out/text_to_image/recall@10, mode: max}]
search: {method: random, trials: 6}
scheduler: {kind: asha, first_rung: 0.2}
replicas: 2
space:
  distillation.alpha: uniform(0, 0.8)
  adversarial.steps: [0, 2]
  adversarial.step_size: {draw: "loguniform(1e-4, 1e-1)", when: adversarial.steps > 1}
budget: {hours: 1000}
"""
SEEN = Observations(footprint=FOOTPRINT, decode_cpu_s=0.001).to_json()
SPEED = PreflightOptions(samples_per_s=10.0, from_cluster={"observations": SEEN}, quiet=True)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_shards("data", 50)
    Path("mine.yaml").write_text(RECIPE)
    Path("alpha.yaml").write_text(SWEEP)
    return tmp_path


def load(*overrides: str) -> ResolvedSweep:
    return load_sweep(Path("alpha.yaml"), overrides)


def test_a_plan_for_this_machine(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan_sweep(load(), options=PreflightOptions(quiet=True), room=Capacity(cpus=4, gpus=0))
    assert planned.ok
    show_sweep_plan(planned)
    shown = capsys.readouterr().out
    assert "sweep         alpha: 12 trials, 6 configurations with 2 seeds each, by random" in shown
    assert "asha: 1 in 3 continues after 0.2, 0.6 of a run" in shown
    assert "10 steps, 150 samples" in shown
    assert "samples/s a worker; measured: " in shown
    assert "side by side  3 trials of 1.25 CPUs; the bound is CPUs" in shown
    assert "0.0001 to 0.1, even on a log scale  adversarial.steps > 1" in shown
    assert "expected" in shown
    assert "budget.hours is 1,000.00 h" in shown
    assert "Nothing is in the way of the sweep." in shown
    assert max(map(len, shown.splitlines())) <= 120
    assert not Path("runs").exists()


def test_a_plan_for_scripts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_sweep_plan(plan_sweep(load("scheduler.kind=none"), options=SPEED), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["trials"], found["steps"]) == (True, 12, 10)
    assert found["whole"]["samples"] == 12 * 150
    assert found["expected"] is None
    assert found["sweep"]["space"]["adversarial.steps"] == [0, 2]


def test_what_the_data_says_of_the_length_decides_on_rungs(here: Path) -> None:
    with pytest.raises(RecipeError, match=r"Set evaluation\.every_steps to 1 or less"):
        plan_sweep(load("scheduler.first_rung=0.1"), options=SPEED)


def test_a_trial_without_room_or_data_is_in_the_way(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = plan_sweep(load("overrides.data.train=nowhere"), options=SPEED, room=Capacity(cpus=1, gpus=0))
    assert not planned.ok
    show_sweep_plan(planned)
    shown = capsys.readouterr().out
    assert "ERROR    room: a trial needs 1.25 CPUs, and there are not so many CPUs" in shown
    assert "ERROR    data: " in shown
    assert "must be fixed before the sweep can start." in shown


def test_a_laptop_without_torch_plans_too(here: Path) -> None:
    program = BLOCKED.partition("from orchestrator.cli.main")[0] + (
        "from pathlib import Path\n"
        "from orchestrator.plan.preflight import PreflightOptions\n"
        "from orchestrator.cli.sweep.plan import plan_sweep, show_sweep_plan\n"
        "from orchestrator.config.sweep import load_sweep\n"
        "show_sweep_plan(plan_sweep(load_sweep(Path('alpha.yaml')), options=PreflightOptions(samples_per_s=10.0)))\n"
    )
    Path("laptop.py").write_text(program)
    done = subprocess.run([sys.executable, "laptop.py"], capture_output=True, text=True, timeout=600, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "12 trials" in done.stdout
