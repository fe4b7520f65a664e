"""The command line as a user meets it: exit codes and messages, without starting Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import fuseray
from shards import write_shards

RECIPE = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
scale: {workers: 2, cpus_per_worker: 0.25}
model: {preset: tiny}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_shards(str(folder / "data"), 50)
    (folder / "mine.yaml").write_text(RECIPE)
    return folder


def test_a_dry_run_prints_recipe_and_plan_and_starts_nothing(folder: Path) -> None:
    done = fuseray("train", "mine.yaml", "data.train=data/train", "--dry-run", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "learning_rate: 0.0001" in done.stdout
    assert "micro batches per worker  1" in done.stdout
    assert not (folder / "runs").exists()


def test_a_temporary_folder_that_is_too_long_for_ray_is_refused_before_anything_starts(folder: Path) -> None:
    variables = os.environ | {"RAY_TMPDIR": f"/{'x' * 50}"}
    for last in ([], ["--dry-run"]):
        done = fuseray("train", "mine.yaml", "data.train=data/train", *last, folder=folder, environment=variables)
        assert done.returncode == 2
        assert "Set RAY_TMPDIR to an existing folder of at most 39 bytes" in done.stderr
    assert not (folder / "runs").exists()


def test_a_dry_run_for_scripts(folder: Path) -> None:
    done = fuseray("train", "mine.yaml", "data.train=data/train", "--dry-run", "--json", folder=folder)
    found = json.loads(done.stdout)
    assert found["plan"]["steps"] == 10
    assert found["recipe"]["data"]["train"] == str(folder / "data" / "train")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.train=nowhere"], "nowhere: does not exist"),
        (["data.trian=x"], "did you mean 'train'?"),
        (["data.train=data/train", "scale.workers=64", "batch.micro_batches=64"], "scale.workers: 64 workers"),
        (["data.train=data/train", "scale.use_gpu=true"], "scale.use_gpu: 2 workers need 2 GPUs"),
        (["data.train=data/train", "length.steps=5"], "exactly one of length.epochs and length.steps"),
        (["data.train=ftp://x/y"], "unknown kind of storage 'ftp'"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_starts(folder: Path, overrides: list[str], message: str) -> None:
    done = fuseray("train", "mine.yaml", *overrides, folder=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "runs").exists()


def test_resuming_what_does_not_exist_is_explained(folder: Path) -> None:
    done = fuseray("train", "mine.yaml", "data.train=data/train", "--resume", "other", folder=folder)
    assert done.returncode == 1
    assert "runs/other: is not a run" in done.stderr


@pytest.mark.parametrize("verb", ["evaluate", "report"])
def test_verbs_on_a_run_that_does_not_exist_say_so(folder: Path, verb: str) -> None:
    done = fuseray(verb, "nope", folder=folder)
    assert done.returncode == 1
    assert "no run 'nope' below runs" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_exits_with_two(folder: Path) -> None:
    assert fuseray("trian", folder=folder).returncode == 2
    assert fuseray("train", folder=folder).returncode == 2


def test_shards_can_be_indexed(folder: Path) -> None:
    done = fuseray("shards", "index", "data/train", "--json", folder=folder)
    assert json.loads(done.stdout)["samples"] == 50
    empty = fuseray("shards", "index", "nowhere", folder=folder)
    assert empty.returncode == 1
    assert "nowhere: does not exist" in empty.stderr


def test_a_small_emoji_corpus_is_built_once(folder: Path) -> None:
    first = fuseray("data", "emoji", "emoji", "--limit", "40", "--format", "parquet", "--json", folder=folder)
    assert first.returncode == 0, first.stderr
    assert sum(json.loads(first.stdout)["samples"].values()) == 40
    again = fuseray("data", "emoji", "emoji", "--limit", "40", "--format", "parquet", "--json", folder=folder)
    assert json.loads(again.stdout)["up_to_date"] is True


def test_corpus_options_are_checked(folder: Path) -> None:
    done = fuseray("data", "emoji", "other", "--held-out-share", "2", folder=folder)
    assert done.returncode == 2
    assert "--held-out-share" in done.stderr
    assert not (folder / "other").exists()


def test_python_m_takes_no_module_from_the_current_folder_either(tmp_path: Path) -> None:
    project = Path(__file__).parents[3]
    for name in ("click", "workloads"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError\n")
    command = [sys.executable, "-m", "orchestrator.cli", "--version"]
    elsewhere = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(project)}, check=False)
    in_the_checkout = subprocess.run(command, cwd=project, env=os.environ | {"PYTHONPATH": ""}, check=False)
    assert (elsewhere.returncode, in_the_checkout.returncode) == (0, 0)
