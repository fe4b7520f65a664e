"""Paths in a recipe that other machines do not have: refused, or warned about."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster.jobs.portability import check_paths_shared
from orchestrator.config.errors import RecipeError
from orchestrator.config.loading import ResolvedRecipe, load_recipe

RECIPE = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 3}
model: {preset: tiny}
text: {tokenizer: bert-base-uncased}
"""
REMOTE = ("storage.uri=s3://b/runs", "tracking.uri=https://mlflow.example")


def resolved(folder: Path, *overrides: str) -> ResolvedRecipe:
    path = folder / "mine.yaml"
    path.write_text(RECIPE)
    return load_recipe(path, overrides)


@pytest.mark.parametrize(
    ("override", "key", "fix"),
    [
        ("data.train=emoji/train", "data.train", "s3://"),
        ("data.train=~/train", "data.train", "s3://"),
        ("data.held_out=held", "data.held_out", "absolute path"),
        ("storage.uri=runs", "storage.uri", "s3://BUCKET/runs"),
        ("tracking.uri=sqlite:///runs/mlflow.db", "tracking.uri", "MLflow server"),
        ("tracking.uri=mlruns", "tracking.uri", "MLflow server"),
        ("tracking.artifacts=files", "tracking.artifacts", "MLflow server"),
        ("start={checkpoint: imported}", "start.checkpoint", "s3://"),
        ("recovery.notices=file:gone", "recovery.notices", "on every machine"),
        ("model.text_weights=weights", "model.text_weights", "hub"),
    ],
)
def test_what_only_this_machine_knows_is_refused_for_others(tmp_path: Path, override: str, key: str, fix: str) -> None:
    (tmp_path / "weights").mkdir()
    recipe = resolved(tmp_path, "data.train=s3://b/t", *REMOTE, override)
    with pytest.raises(RecipeError) as caught:
        check_paths_shared(recipe, tmp_path)
    (finding,) = caught.value.findings
    assert finding.location == key
    assert fix in finding.message


def test_all_such_keys_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check_paths_shared(resolved(tmp_path, "data.train=a"), tmp_path)
    assert [finding.location for finding in caught.value.findings] == ["data.train", "storage.uri", "tracking.uri"]


@pytest.mark.parametrize(
    ("override", "warning"),
    [
        ("data.train=/shared/train", "data.train: /shared/train must be on a file system that all machines"),
        ("storage.uri=file:///shared/runs", "storage.uri: file:///shared/runs must be on"),
        ("tracking.uri=sqlite:////shared/mlflow.db", "tracking.uri: sqlite:////shared/mlflow.db must be on"),
        ("tracking.uri=http://localhost:5000", "tracking.uri: http://localhost:5000 is the cluster's own machine"),
        ("storage.endpoint=http://127.0.0.1:9000", "storage.endpoint: http://127.0.0.1:9000 is the cluster's own"),
        ("tracking.uri=environment", "MLFLOW_TRACKING_URI is read on the cluster"),
        ("recovery.notices=file:/run/gone", "recovery.notices: /run/gone is looked for on every machine"),
    ],
)
def test_what_others_may_have_is_warned_about(tmp_path: Path, override: str, warning: str) -> None:
    (found,) = check_paths_shared(resolved(tmp_path, "data.train=s3://b/t", *REMOTE, override), tmp_path)
    assert warning in found


def test_object_storage_and_servers_need_no_word(tmp_path: Path) -> None:
    assert check_paths_shared(resolved(tmp_path, "data.train=gs://b/t", *REMOTE), tmp_path) == []
