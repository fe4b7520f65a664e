"""Measuring beside the training: which checkpoint comes next, what waits for it, and where its metrics go."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from mlflow_database import new_database
from saving import alone, optimizer_state_of, state_of
from shards import write_shards
from toy_workload import ToyConfig, ToyWorkload
from toyland import install_toyland

from orchestrator.config.loading import load_recipe
from orchestrator.config.recipe import CheckpointSection
from orchestrator.ray_internals import without_unused_processes
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFile
from orchestrator.track.run_writer import TrackedRun
from orchestrator.track.tracker import Tracker
from orchestrator.train.checkpoints.maintenance import list_checkpoints
from orchestrator.train.checkpoints.manager import CheckpointWriter
from orchestrator.train.checkpoints.measured import measured_later
from orchestrator.train.control_channel import StepRecord
from orchestrator.train.evaluation.beside import BesideEvaluation, Choice, Measured, choose
from orchestrator.train.plan import Plan, make_plan
from orchestrator.train.run_logger import RunLogger
from workloads.contract import KeyedRandom

RECIPE = """\
workload: paced
batch: {micro_batches: 2, micro_batch_size: 8}
length: {epochs: 3}
scale: {workers: 1, cpus_per_worker: 0.5}
evaluation: {every_steps: 10, where: beside, cpus: 0.5, compare: 2, block: 4}
checkpoint: {keep: 1, keep_best: 1, metric: held_out/distance, mode: max}
"""


@pytest.mark.parametrize(
    ("waiting", "busy", "expected"),
    [
        ((), False, Choice()),
        ((10,), False, Choice(10)),
        ((10, 20, 30), False, Choice(30, (10, 20))),
        ((10, 20), True, Choice()),
    ],
)
def test_the_newest_is_measured_and_a_backlog_is_skipped(
    waiting: tuple[int, ...], busy: bool, expected: Choice
) -> None:
    assert choose(waiting, busy) == expected


class Screen:
    """Keeps what the user is shown."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, text: str) -> None:
        self.messages.append(text)

    def step(self, record: StepRecord, skipped: int) -> None:
        pass


class FailingActor:
    """Cannot measure."""

    def ready(self) -> None:
        pass

    def measure(self, folder: Location) -> Measured:
        raise ValueError("no such thing")


class DyingActor(FailingActor):
    """Ends its process."""

    def measure(self, folder: Location) -> Measured:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.fixture(scope="module", autouse=True)
def tiny_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray, whose processes search for distributions where this one does."""
    site = str(install_toyland(tmp_path_factory.mktemp("site")))
    sys.path.append(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with without_unused_processes():
            ray.init(num_cpus=2, object_store_memory=80_000_000, log_to_driver=False)
        yield
        ray.shutdown()
    sys.path.remove(site)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    data = write_shards(str(tmp_path / "data"), 30, per_shard=10)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    places = [f"data.train={data}", f"data.held_out={data}", f"storage.uri={tmp_path}/runs"]
    return make_plan(load_recipe(tmp_path / "mine.yaml", places))


def save(plan: Plan, step: int) -> Location:
    """Save a checkpoint of the toy with other weights at each step, as worker 0 does."""
    model = ToyWorkload(ToyConfig(width=3)).build(torch.device("cpu"), KeyedRandom((step,)))
    section: CheckpointSection = plan.recipe.checkpoint
    writer = CheckpointWriter(plan.run, 0, 1, f"start-{step}", section)
    state = replace(state_of(step), workload="paced")
    writer.save(state, model.state_dict(), optimizer_state_of(step), alone(), {"loss": 1.0}, True)
    writer.close()
    return plan.run.checkpoints / f"step-{step:08d}"


def logger_of(plan: Plan, folder: Path) -> tuple[RunLogger, Screen, TrackedRun]:
    uri, screen = new_database(folder / "mlflow.db"), Screen()
    tracker = Tracker.start(uri, "e", "run", {}, screen.log)
    file = RunFile("run", "d", "i", uri, tracker.run_id, plan.steps, "2026-01-01T00:00:00+00:00", "RUNNING")
    return RunLogger(plan, file, tracker, screen, 0), screen, TrackedRun(uri, tracker.run_id)


def test_checkpoints_wait_are_measured_and_ranked_by_it(plan: Plan, tmp_path: Path) -> None:
    logger, screen, tracked = logger_of(plan, tmp_path)
    for step in (10, 20):
        save(plan, step)
    assert [folder.name for folder in measured_later(plan.run)] == ["step-00000010", "step-00000020"]
    beside = BesideEvaluation.of(plan, logger)
    assert beside is not None
    beside.finish()
    save(plan, 30)
    beside.finish()
    beside.close()
    assert measured_later(plan.run) == []
    assert "evaluation of step 10 is skipped: a newer checkpoint is there" in screen.messages
    logger.close("FINISHED")
    steps, distances = tracked.curve("held_out/distance")
    assert steps == [19, 29]
    assert distances[0] != distances[1]
    kept = {entry.step: entry.metrics for entry in list_checkpoints(plan.run)}
    assert set(kept) == {30} | ({20} if distances[0] > distances[1] else set())
    assert kept[30]["held_out/distance"] == distances[1]


@pytest.mark.parametrize(("actor", "reason"), [(FailingActor, "no such thing"), (DyingActor, "died")])
def test_a_failure_is_told_and_costs_nothing(plan: Plan, tmp_path: Path, actor: type, reason: str) -> None:
    logger, screen, _ = logger_of(plan, tmp_path)
    remote: Any = ray.remote(actor)
    beside = BesideEvaluation(plan, logger, lambda: remote.options(num_cpus=0).remote())
    for step in (10, 20):
        save(plan, step)
        beside.finish()
    beside.close()
    told = [text for text in screen.messages if "beside training failed; training goes on" in text]
    assert len(told) == 2
    assert all(reason in text for text in told)
    assert measured_later(plan.run) == []
    assert [entry.step for entry in list_checkpoints(plan.run)] == [20]
    logger.close("FINISHED")


def test_workers_that_measure_need_no_actor(plan: Plan, tmp_path: Path) -> None:
    logger, _, _ = logger_of(plan, tmp_path)
    inside = make_plan(plan.resolved.with_values(changed(plan.resolved.values())))
    assert BesideEvaluation.of(inside, logger) is None
    logger.close("FINISHED")


def changed(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"evaluation": values["evaluation"] | {"where": "workers"}}
