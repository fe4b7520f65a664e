"""Every key of a recipe when a run is resumed: its change takes effect, or is refused by name. None is ignored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from shards import write_shards

from orchestrator.config.document import Document, flatten
from orchestrator.config.loading import load_recipe
from orchestrator.config.recipe import Recipe, StartSection
from orchestrator.storage.run_folder import RunError, RunFile
from orchestrator.train.plan import Plan, make_plan, recipe_yaml
from orchestrator.train.resume import continued_run

RECIPE = """\
workload: albef
name: mine
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 6}
scale: {cpus_per_worker: 0.5}
model: {preset: tiny}
"""

TAKES_EFFECT = {
    "data.train": "{}/copy/train",
    "data.held_out": "{}/copy/train",
    "stream.decode_on": "readers",
    "stream.decode_threads": "3",
    "stream.prefetch": "3",
    "stream.reader_cpus": "1.5",
    "stream.decoded_cache_mb": "500",
    "stream.max_bad_share": "0.5",
    "scale.workers": "[1, 2]",
    "scale.resize_every_s": "3",
    "scale.use_gpu": "true",
    "scale.cpus_per_worker": "0.25",
    "scale.parallel": "sharded",
    "scale.address": "auto",
    "scale.machines_wait_s": "3",
    "scale.object_store_mb": "300",
    "checkpoint.every_steps": "3",
    "checkpoint.keep": "5",
    "checkpoint.keep_best": "2",
    "checkpoint.metric": "gradient_norm",
    "checkpoint.mode": "max",
    "recovery.machine_faults": "3",
    "recovery.preemptions": "3",
    "recovery.without_progress": "5",
    "recovery.hang_s": "3",
    "recovery.notices": "auto",
    "recovery.not_a_number": "skip",
    "recovery.bad_steps": "3",
    "evaluation.every_steps": "3",
    "evaluation.samples": "3",
    "evaluation.where": "beside",
    "evaluation.cpus": "3",
    "evaluation.gpus": "3",
    "evaluation.memory_mb": "3",
    "budget.usd": "3",
    "budget.hours": "3",
    "storage.endpoint": "http://127.0.0.1:9",
    "tracking.uri": "sqlite:///other.db",
}
"""Values by key with which the run continues; the plan that the driver and the workers use has them."""

FINDS_ANOTHER_FOLDER = {"name": "other", "storage.uri": "{}/other"}
"""These say where the run to continue is, so with other values there is none."""

REFUSED = {
    "workload": "",
    "seed": "7",
    "precision": "bfloat16",
    "data.mix": "[{{uri: {}/data/train, weight: 1}}]",
    "batch.micro_batches": "3",
    "batch.micro_batch_size": "3",
    "length.epochs": "3",
    "length.steps": "3",
    "stream.chunk": "3",
    "stream.window": "64",
    "stream.audit": "true",
    "optimizer.learning_rate": "0.3",
    "optimizer.betas": "[0.9, 0.9]",
    "optimizer.epsilon": "0.3",
    "optimizer.weight_decay": "0.3",
    "optimizer.clip_norm": "0.3",
    "schedule.kind": "linear",
    "schedule.by": "epoch",
    "schedule.warmup_steps": "3",
    "schedule.warmup_from": "0.3",
    "schedule.warmup_plateau": "3",
    "schedule.final": "0.3",
    "start.checkpoint": "",
    "start.take": "",
    "tracking.experiment": "other",
    "tracking.artifacts": "{}/other",
}
"""Values by key with which it does not; of a key without one there is another test."""

TOGETHER = {
    "data.mix": ["data.train=null"],
    "length.epochs": ["length.steps=null"],
    "checkpoint.keep_best": ["checkpoint.metric=loss", "checkpoint.mode=min"],
    "scale.use_gpu": ["scale.address=auto"],
}
"""Overrides that a changed key needs to be valid."""


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = _section(field.annotation)
        yield from keys_of(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]


def _section(annotation: Any) -> type[BaseModel] | None:
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a copy of them, and a run that was stopped."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("data", "copy"):
        write_shards(str(folder / name), 50)
    (folder / "mine.yaml").write_text(RECIPE)
    plan = plan_of(folder)
    plan.run.recipe.write(recipe_yaml(plan.resolved).encode())
    digests, uri = (plan.resolved.digest(), plan.data.digest), plan.recipe.tracking.uri
    plan.run.write(RunFile("mine", *digests, uri, "id", plan.steps, "2026-01-01", "KILLED"))
    return folder


def plan_of(folder: Path, *overrides: str) -> Plan:
    places = [
        f"data.train={folder}/data/train",
        f"storage.uri={folder}/runs",
        f"tracking.uri=sqlite:///{folder}/mlflow.db",
    ]
    return make_plan(load_recipe(folder / "mine.yaml", [*places, *overrides]))


def changed(home: Path, key: str, value: str) -> Plan:
    return plan_of(home, *TOGETHER.get(key, ()), f"{key}={value.format(home)}")


def test_the_tables_name_every_key_once() -> None:
    tables = (TAKES_EFFECT, FINDS_ANOTHER_FOLDER, REFUSED)
    assert sorted(key for table in tables for key in table) == sorted(keys_of(Recipe))


@pytest.mark.parametrize("key", TAKES_EFFECT)
def test_a_change_that_takes_effect(home: Path, key: str) -> None:
    plan = changed(home, key, TAKES_EFFECT[key])
    assert flatten(plan.resolved.values())[key] != flatten(plan_of(home).resolved.values())[key]
    assert continued_run(plan).previous is not None


def test_the_workload_s_options_of_an_evaluation_take_effect(home: Path) -> None:
    plan = plan_of(home, "evaluation.rerank=3", "evaluation.block=5")
    assert (plan.resolved.values()["evaluation"]["rerank"], plan.resolved.evaluation.block) == (3, 5)
    assert continued_run(plan).previous is not None


@pytest.mark.parametrize("key", FINDS_ANOTHER_FOLDER)
def test_where_the_run_is(home: Path, key: str) -> None:
    with pytest.raises(RunError, match=r"other.*: is not a run"):
        continued_run(changed(home, key, FINDS_ANOTHER_FOLDER[key]))


@pytest.mark.parametrize("key", [key for key, value in REFUSED.items() if value])
def test_a_change_that_is_refused_by_name(home: Path, key: str) -> None:
    with pytest.raises(RunError, match=rf"\b{key}\b.* -> ") as refused:
        continued_run(changed(home, key, REFUSED[key]))
    assert "Undo that, or start another run with name=OTHER" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "update"),
    [
        ("workload", {"workload": "other"}),
        ("start.checkpoint", {"start": StartSection(checkpoint="/imported")}),
        ("start.take", {"start": StartSection(checkpoint="/imported", take="everything")}),
    ],
)
def test_what_a_new_run_begins_with_is_refused(home: Path, key: str, update: dict[str, object]) -> None:
    plan = plan_of(home)
    other = replace(plan.resolved, recipe=plan.recipe.model_copy(update=update))
    with pytest.raises(RunError, match=rf"\b{key}\b.* -> "):
        continued_run(replace(plan, resolved=other))


def test_all_keys_of_the_workload_are_refused(home: Path) -> None:
    """A record of a run with other values of all of them."""
    plan = plan_of(home, "name=all")
    keys = list(flatten(plan.resolved.workload.model_dump(mode="json")))
    before = Document("before", plan.resolved.values(), {})
    for key in keys:
        before.set(key, "before")
    plan.run.recipe.write(json.dumps(before.to_dict()).encode())
    plan.run.write(
        RunFile("all", "before", plan.data.digest, plan.recipe.tracking.uri, "id", 6, "2026-01-01", "KILLED")
    )
    with pytest.raises(RunError) as refused:
        continued_run(plan)
    assert [key for key in keys if f" {key}: 'before' -> " not in str(refused.value)] == []


def test_other_data_are_refused_wherever_they_are(home: Path, tmp_path: Path) -> None:
    other = write_shards(str(tmp_path / "data"), 51)
    with pytest.raises(RunError, match=r"training data in .* changed"):
        continued_run(changed(home, "data.train", other))


@pytest.mark.parametrize("key", ["tracking.experiment", "tracking.artifacts"])
def test_an_mlflow_that_gets_the_run_anew_may_keep_it_elsewhere(home: Path, key: str) -> None:
    plan = plan_of(home, "tracking.uri=sqlite:///other.db", f"{key}=other")
    assert continued_run(plan).previous is not None
