"""The verbs on a machine that only submits: no torch, no cluster that answers, and recipes that must not leave it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster.jobs.history import JobRecord, JobRegister

SERVERS = Path(__file__).parents[3] / "servers" / "clusters"
RECIPE = """\
workload: albef
data: {train: "s3://b/t"}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 3}
model: {preset: tiny}
storage: {uri: "s3://b/runs"}
tracking: {uri: "https://mlflow.example"}
"""
WITHOUT = ("torch", "torchvision", "timm", "transformers", "tokenizers", "mlflow", "safetensors", "PIL", "cv2")
BLOCK = f"""
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {WITHOUT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {WITHOUT!r} else found(name, package)
sys.meta_path.insert(0, Absent())
sys.argv = ["fuseray", *sys.argv[1:]]
from fuseray_here import use_here
use_here()
from orchestrator.cli.main import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with a recipe, and clusters that do not answer."""
    (tmp_path / "mine.yaml").write_text(RECIPE)
    for name, settings in {
        "lab": {"kind": "launcher", "market": "owned", "url": "http://127.0.0.1:9", "token": "t"},
        "cloud": {"kind": "launcher", "market": "spot", "later": "http://127.0.0.1:9", "token": "t"},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
    return tmp_path


def fuseray(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SERVERS), os.environ.get("PYTHONPATH", "")]),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    return subprocess.run(
        [sys.executable, "-c", BLOCK, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )


def remember(folder: Path, job: str, cluster: str = "lab") -> None:
    JobRegister(folder / "state" / "fuseray" / "jobs").add(
        JobRecord(
            job=job,
            cluster_file=str(folder / f"{cluster}.json"),
            cluster=cluster,
            run="mine",
            run_folder="s3://b/runs/mine",
            recipe="/mine.yaml",
            submitted="2026-01-01T00:00:00+00:00",
        )
    )


def test_jobs_of_clusters_that_do_not_answer_are_listed_as_such(folder: Path) -> None:
    assert json.loads(fuseray(folder, "jobs", "--json").stdout) == {"jobs": []}
    remember(folder, "mine-1")
    remember(folder, "mine-2", cluster="gone")
    listed = fuseray(folder, "jobs", "--json")
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)["jobs"]
    assert {row["job"]: row["status"] for row in rows} == {"mine-1": "UNREACHABLE", "mine-2": "UNREACHABLE"}
    shown = fuseray(folder, "jobs")
    assert "mine-1" in shown.stdout
    assert "gone.json: is not there any more" in shown.stderr
    assert "127.0.0.1:9: the job server does not answer" in shown.stderr


@pytest.mark.parametrize("verb", ["status", "logs", "stop"])
def test_a_cluster_that_does_not_answer_is_said(folder: Path, verb: str) -> None:
    remember(folder, "mine-1")
    done = fuseray(folder, verb, "mine")
    assert done.returncode == 1
    assert "the job server does not answer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", "lab.json", "storage.uri=runs"], "storage.uri: runs is a path that only this machine knows"),
        (["--cluster", "lab.json", "hub.token=x"], "unknown key 'hub'"),
        (["--cluster", "lab.json", "data.train=https://a:b@c/d"], "data.train: holds a password"),
        (["--cluster", "cloud.json"], "cloud: there is no terminal to ask at; say --yes"),
        (["--cluster", "lab.json", "--prices", "nowhere.yaml"], "nowhere.yaml: cannot be read as a table of prices"),
    ],
)
def test_what_must_not_be_submitted_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    done = fuseray(folder, "submit", "mine.yaml", *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (folder / "state").exists()


def test_a_submission_to_nobody_is_not_remembered(folder: Path) -> None:
    done = fuseray(folder, "submit", "mine.yaml", "--cluster", "cloud.json", "--yes", "--detach")
    assert done.returncode == 1
    assert "starting cloud" in done.stderr
    assert "the job server does not answer" in done.stderr
    assert json.loads(fuseray(folder, "jobs", "--json").stdout) == {"jobs": []}
