"""A short chaos run: three faults, and nobody can tell from ledger, MLflow and losses that anything happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
KINDS = ["checkpoint_corruption", "preemption", "worker_kill"]


@pytest.mark.timeout(1800)
def test_faults_leave_no_trace() -> None:
    options = ["--faults", "3", *(text for kind in KINDS for text in ("--kind", kind)), "batch.micro_batch_size=4"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["faults"], found["kinds"]) == (3, KINDS), done.stderr
    assert (found["duplicates"], found["gaps"], found["mlflow_duplicates"]) == (0, 0, 0)
    assert found["leftovers"] == [], done.stderr
    assert found["untold"] == [], done.stderr
    assert found["loss_difference_max"] <= 1e-5
    assert 0 < found["steps_lost"] < found["steps"]


def test_what_is_not_the_tools_own_is_refused() -> None:
    options = ["--kind", "node_remove", "--address", "127.0.0.1:1"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "--kind node_remove: adds or ends nodes" in done.stderr
