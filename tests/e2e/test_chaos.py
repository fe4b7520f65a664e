"""A short chaos run: three faults, and nobody can tell from ledger, MLflow and losses that anything happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from chaos_schedule import Kind
from chaos_setting import built_in, own_scale
from mlflow_database import new_database
from paced_workload import write_pace
from shards import write_shards
from toyland import install_toyland, with_toyland

from orchestrator.train.plan import make_plan

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
KINDS = ["checkpoint_corruption", "preemption", "worker_kill"]
FAULTS = 3
STEP_S = 0.1
RECIPE = f"""\
workload: paced
batch: {{micro_batches: 3, micro_batch_size: 4}}
length: {{steps: {32 * (FAULTS + 1)}}}
stream: {{chunk: 16, window: 48}}
precision: float64
optimizer: {{learning_rate: 1e-3, clip_norm: 1.0}}
checkpoint: {{every_steps: 5, keep: 4}}
recovery: {{hang_s: 60.0, machine_faults: 1000}}
"""


def chaos(*options: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=1700, env=environment)


@pytest.mark.timeout(1800)
def test_faults_leave_no_trace(tmp_path: Path) -> None:
    write_pace(tmp_path / "pace", STEP_S, -1)
    places = {
        "data": f"{{train: {write_shards(str(tmp_path / 'data'), 150, per_shard=40)}}}",
        "storage": f"{{uri: {tmp_path}/runs}}",
        "tracking": f"{{uri: '{new_database(tmp_path / 'mlflow.db')}'}}",
        "pace": f"{tmp_path}/pace",
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "".join(f"{key}: {value}\n" for key, value in places.items()))
    options = ["--faults", str(FAULTS), *(text for kind in KINDS for text in ("--kind", kind))]
    environment = os.environ | with_toyland(install_toyland(tmp_path / "site"))
    done = chaos(*options, "--recipe", str(recipe), "--corrupt-checkpoints", environment=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["faults"], found["kinds"]) == (FAULTS, KINDS), done.stderr
    assert (found["duplicates"], found["gaps"], found["mlflow_duplicates"]) == (0, 0, 0)
    assert found["leftovers"] == [], done.stderr
    assert found["untold"] == [], done.stderr
    assert found["loss_difference_max"] <= 1e-5
    assert 0 < found["steps_lost"] < found["steps"]


def test_the_built_in_recipe_makes_a_plan(tmp_path: Path) -> None:
    with ExitStack() as stack:
        setting = built_in(stack, tmp_path, 64, (Kind.WORKER_KILL,), ("batch.micro_batch_size=4",))
        resolved = setting.named("mine", own_scale(setting.named("mine", ())))
        plan = make_plan(resolved)
    assert (plan.steps, plan.recipe.workload, plan.recipe.batch.micro_batch_size) == (64, "albef", 4)


def test_what_is_not_the_tools_own_is_refused() -> None:
    done = chaos("--kind", "node_remove", "--address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "--kind node_remove: adds or ends nodes" in done.stderr
