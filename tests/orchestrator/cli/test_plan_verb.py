"""`fuseray plan` as a user meets it, on real data, a real object store, and a machine without torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from planned import BLOCKED
from preloaded import fuseray
from s3_server import S3Server
from shards import write_shards

RECIPE = """\
workload: albef
data: {train: data/train}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
scale: {workers: 2, cpus_per_worker: 0.25}
model: {preset: tiny}
"""
LOCAL = "cluster_name: local\nprovider: {type: this-machine}\n"


def without_torch(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "laptop.py").write_text(BLOCKED)
    command = [sys.executable, "laptop.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=os.environ)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    write_shards(str(folder / "data"), 50)
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "local.yaml").write_text(LOCAL)
    return folder


def test_a_plan_for_this_machine(folder: Path) -> None:
    done = fuseray("plan", "mine.yaml", "--cluster", "local.yaml", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 steps, 150 samples" in done.stdout
    assert "data: data/train: 50 samples in" in done.stdout
    assert "4 of 4 looked at can be used" in done.stdout
    assert "storage: runs/mine: can be written, read and deleted" in done.stdout
    assert "measured:" in done.stdout
    assert "model: the ViT makes of 64 x 64 pixels a grid of 8 x 8 tokens of width 128" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert not (folder / "runs").exists()


def test_a_machine_of_the_cluster_reports_and_the_laptop_counts_on_it(folder: Path) -> None:
    there = fuseray("plan", "mine.yaml", "--here", "--json", "data.train=nowhere", folder=folder)
    assert there.returncode == 2
    report = json.loads(there.stdout)
    assert [each["name"] for each in report["findings"] if each["level"] == "error"] == ["data"]
    assert report["observations"]["footprint"]["trained_bytes"] > 10**6


def test_a_laptop_without_torch_leaves_the_model_to_the_cluster(folder: Path) -> None:
    done = without_torch("plan", "mine.yaml", "--cluster", "local.yaml", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    levels = {(each["name"], each["level"]) for each in json.loads(done.stdout)["findings"]}
    assert {("model", "warning"), ("mlflow", "warning"), ("batch", "pass")} <= levels


def test_dead_endpoints_cost_patience_once(folder: Path) -> None:
    dead = ["data.train=s3://none/train", "storage.uri=s3://none/runs", "storage.endpoint=http://127.0.0.1:9"]
    began = monotonic()
    done = without_torch(
        "plan", "mine.yaml", "--cluster", "local.yaml", *dead, "tracking.uri=http://127.0.0.1:9", folder=folder
    )
    assert monotonic() - began < 60
    assert done.returncode == 2
    assert "ERROR    storage: s3://none/runs/mine" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_plan_needs_no_data_when_it_is_told_how_much_there_is(folder: Path) -> None:
    (folder / "bare.yaml").write_text(RECIPE.replace("data: {train: data/train}\n", ""))
    plan = ["plan", "bare.yaml", "--cluster", "local.yaml", "--samples", "1600", "--samples-per-s", "10"]
    done = without_torch(*plan, "--json", folder=folder)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (found["steps"], found["samples"]) == (300, 4800)
    assert found["scenarios"][0]["hours"] == pytest.approx(4800 / 20 / 3600)
    without = without_torch("plan", "bare.yaml", "--cluster", "local.yaml", folder=folder)
    assert without.returncode == 2
    assert "set data.train" in without.stderr


def test_the_run_folder_in_an_object_store_is_tried_and_left_clean(
    folder: Path, seaweedfs_server: S3Server, log_in: Callable[[S3Server], None]
) -> None:
    from orchestrator.plan.reachability import check_writable
    from orchestrator.storage.location import locate

    log_in(seaweedfs_server)
    uri = f"s3://{seaweedfs_server.make_bucket()}/plans/mine"
    assert check_writable(uri, seaweedfs_server.endpoint, 20).level == "pass"
    assert locate(uri, seaweedfs_server.endpoint).list() == []
    refused = check_writable("s3://no-such-bucket-here/runs", seaweedfs_server.endpoint, 20)
    assert (refused.level, "storage.uri" in refused.fix) == ("error", True)


def test_a_cluster_has_to_be_named(folder: Path) -> None:
    done = fuseray("plan", "mine.yaml", folder=folder)
    assert done.returncode == 2
    assert "--cluster FILE" in done.stderr
