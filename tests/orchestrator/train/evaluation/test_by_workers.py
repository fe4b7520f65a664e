"""The workers' own evaluation: what it logs, and what it does when the samples are gone or are of no use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from measured import SeededModel
from planned import resolved
from shards import write_shards
from toy_workload import ToyConfig, ToyEntry, ToyOptions, ToyWorkload

from orchestrator.config.loading import ResolvedRecipe
from orchestrator.evaluate.shared import Failure, ShareError
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFolder
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.reader import DataSet, TrainingData
from orchestrator.stream.unusable import read_unusable
from orchestrator.train.evaluation.by_workers import WorkersEvaluation
from orchestrator.train.parallel.base import SingleWorker
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.diagnosis import EvaluationError
from workloads.contract import Block, KeyedRandom, Part


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    folder = locate(write_shards(str(tmp_path / "data"), 12, per_shard=4))
    index = read_index(folder)
    recipe = resolved(evaluation={"every_steps": 2, "samples": 9}, data={"train": folder.uri, "held_out": folder.uri})
    recipe = ResolvedRecipe(recipe.recipe, ToyConfig(), ToyEntry(), ToyOptions(block=2, compare=1))
    data = TrainingData((DataSet(folder, index, 1.0),))
    return Plan(recipe, data, folder, index, RunFolder(locate(str(tmp_path / "run"))), ())


def evaluation_of(plan: Plan, log: list[str]) -> WorkersEvaluation:
    evaluation = WorkersEvaluation.of(plan, SingleWorker(), lambda value: value, log.append)
    assert evaluation is not None
    return evaluation


def test_metrics_are_named_as_they_are_logged(plan: Plan) -> None:
    log: list[str] = []
    metrics = evaluation_of(plan, log).run(SeededModel("toy").load())
    assert set(metrics) == {f"held_out/{name}" for name in ("samples", "caption_words", "distance", "skipped")}
    assert (metrics["held_out/samples"], metrics["held_out/skipped"]) == (9, 0)
    assert read_unusable(plan.run.held_out_quarantine) == []
    assert log == []


def test_samples_that_have_gone_cost_the_metrics_alone(plan: Plan, tmp_path: Path) -> None:
    log: list[str] = []
    evaluation = evaluation_of(plan, log)
    for shard in (tmp_path / "data" / "train").glob("*.tar"):
        shard.unlink()
    assert evaluation.run(SeededModel("toy").load()) == {}
    (told,) = log
    assert told.startswith("The held-out samples cannot be read; training goes on without metrics of this step.")
    assert str(tmp_path / "data") in told


class UselessWorkload(ToyWorkload):
    """Cannot be evaluated."""

    def evaluator(self, options: Any) -> Any:
        raise ValueError("no such option")


def test_what_the_workload_cannot_do_ends_the_run_and_names_the_samples(plan: Plan) -> None:
    workload = UselessWorkload(ToyConfig())
    workload.build(torch.device("cpu"), KeyedRandom((1,)))
    with pytest.raises(EvaluationError, match=r"evaluating on the held-out samples in .*data/train failed: .*option"):
        evaluation_of(plan, []).run(workload)


def test_another_worker_s_trouble_is_judged_as_ones_own(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    evaluation, workload = evaluation_of(plan, log), SeededModel("toy").load()

    def failing(gone: bool) -> None:
        def encode(_: Any, block: Block) -> Part:
            raise ShareError(Failure("shard-000001.tar: is gone", gone))

        monkeypatch.setattr("toy_workload.ToyEvaluator.encode", encode)

    failing(gone=True)
    assert evaluation.run(workload) == {}
    assert "shard-000001.tar" in log[0]
    failing(gone=False)
    with pytest.raises(EvaluationError, match="is gone"):
        evaluation.run(workload)


def test_nothing_is_measured_without_steps_or_samples(plan: Plan) -> None:
    for change in ({"evaluation": {"where": "beside", "every_steps": 2}}, {"evaluation": {}}):
        values = plan.resolved.values()
        section = {key: values["evaluation"][key] for key in ("block", "compare")} | change["evaluation"]
        other = Plan(
            plan.resolved.with_values(values | {"evaluation": section}),
            plan.data,
            plan.held_out,
            plan.held_out_index,
            plan.run,
            (),
        )
        assert WorkersEvaluation.of(other, SingleWorker(), lambda value: value, print) is None
