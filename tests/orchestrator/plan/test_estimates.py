"""Speed, decoding, hours and dollars: what follows from a recipe, a cluster and what was measured."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from planned import FOOTPRINT, PRICES, cluster, group, recipe, resolved
from toy_workload import ToyEntry

from orchestrator.cluster.findings import Level
from orchestrator.config.cluster import NodeGroup
from orchestrator.plan.checks import (
    PLACEHOLDER_URI,
    Assumptions,
    PreflightResult,
    check_batch,
    check_budget,
    check_places,
    preflight_result,
)
from orchestrator.plan.estimates import check_decoding, effective_workers, peak_tflops, worker_speed
from orchestrator.plan.machines import node_types_of
from orchestrator.plan.observations import Observations
from workloads.contract import BatchShape, Problem

BIG, CPU = group("big", "big-gpu", 2), group("cpu", "cpu", 3, market="on-demand")
SEEN = Observations(footprint=FOOTPRINT, decode_cpu_s=0.003, epoch_samples=1_000_000)


def expected(*groups: NodeGroup, seen: Observations = SEEN, **values: Any) -> PreflightResult:
    return preflight_result(resolved(**values), cluster(*groups), PRICES, seen, Assumptions(0.5, None, 2))


def test_a_run_worked_out_by_hand() -> None:
    result = expected(BIG, CPU)
    (only,) = result.scenarios
    assert result.speed is not None
    assert result.speed.samples_per_s == pytest.approx(500)  # half of 1000 TFLOP/s at 1 TFLOP a sample
    assert (result.steps, result.samples) == (3907, 2_000_000)
    assert only.samples_per_s == pytest.approx(4000)
    assert only.machines == {"head": 1, "big": 1}  # 4000 samples/s are decoded on 12 of the 88 CPUs that are left
    assert only.hours == pytest.approx(2_000_000 / 4000 / 3600)
    assert only.usd == {
        "file": pytest.approx(only.hours * 16.2),
        "spot": pytest.approx(only.hours * 16.2),
        "on-demand": pytest.approx(only.hours * 40.2),
    }
    assert {finding.level for finding in result.findings} == {"pass"}


def test_decoding_brings_machines_along_and_sets_the_pace_when_there_are_too_few() -> None:
    slow = replace(SEEN, decode_cpu_s=0.03)
    result = expected(BIG, CPU, seen=slow)
    (only,) = result.scenarios
    assert only.machines == {"head": 1, "big": 1, "cpu": 2}  # 144 CPUs are wanted, 88 are there
    assert only.samples_per_s == pytest.approx(4000)
    (starved,) = expected(BIG, seen=replace(SEEN, decode_cpu_s=0.3)).scenarios
    assert starved.machines == {"head": 1, "big": 1}  # nobody pays for GPUs to decode with their machine's CPUs
    assert starved.samples_per_s == pytest.approx(starved.decoding_cpus / 0.3)


def test_an_elastic_run_is_a_range_up_to_what_the_cluster_holds() -> None:
    values = {"scale": {"workers": [4, 64], "use_gpu": True}, "batch": {"micro_batches": 64, "micro_batch_size": 8}}
    few, many = expected(BIG, **values).scenarios
    assert (few.workers, many.workers) == (4, 16)
    assert few.hours is not None
    assert many.hours == pytest.approx(few.hours / 4)


def test_a_run_that_goes_on_costs_what_is_left_at_the_speed_that_it_had() -> None:
    past = replace(SEEN, done_steps=3000, past_samples_per_s=800.0, past_workers=4)
    result = expected(BIG, seen=past)
    assert result.speed is not None
    assert result.speed.samples_per_s == pytest.approx(200)
    assert result.scenarios[0].hours == pytest.approx((2_000_000 - 3000 * 512) / 1600 / 3600)


def test_what_nobody_measured_is_unknown_and_said() -> None:
    result = expected(BIG, seen=Observations())
    assert (result.steps, result.speed, result.scenarios[0].usd["file"]) == (None, None, None)
    assert [finding.level for finding in result.findings if finding.name == "data keeps up"] == ["warning"]
    steps = expected(BIG, seen=Observations(), length={"steps": 10})
    assert (steps.steps, steps.samples) == (10, 5120)


@pytest.mark.parametrize(
    ("values", "measured", "rate", "said"),
    [
        ({}, None, 500.0, "50% of the H100's 1000 TFLOP/s in bfloat16"),
        ({"precision": "float32"}, None, 33.5, "67 TFLOP/s in float32"),
        ({}, 123.0, 123.0, "--samples-per-s"),
        ({"scale": {"workers": 8, "cpus_per_worker": 3.0}}, None, 6.0, "measured: 2 samples/s and CPU"),
    ],
)
def test_speed_of_a_worker(values: dict[str, Any], measured: float | None, rate: float, said: str) -> None:
    speed = worker_speed(recipe(**values), SEEN, node_types_of(cluster(BIG), PRICES, 2), 0.5, measured)
    assert speed is not None
    assert speed.samples_per_s == pytest.approx(rate)
    assert said in speed.source


def test_unlisted_gpus_are_slow_in_float32() -> None:
    unlisted = replace(PRICES.accelerators["H100"], name="X1")
    assert peak_tflops(unlisted, "float32") == 62.5
    assert peak_tflops(replace(unlisted, name="A100-80G"), "float32") == 19.5


@pytest.mark.parametrize(("workers", "worth"), [(1, 1.0), (4, 4.0), (5, 4.0), (7, 4.0), (8, 8.0)])
def test_workers_that_wait_for_others(workers: int, worth: float) -> None:
    assert effective_workers(recipe(), workers) == worth


@pytest.mark.parametrize(
    ("needed", "level", "said"),
    [(1000, "pass", "decode 2,000"), (1800, "warning", "close"), (3000, "warning", "wait for data")],
)
def test_decoding(needed: float, level: Level, said: str) -> None:
    finding = check_decoding(needed, cpus=10, cpu_s=0.005, workers=8, where="this machine")
    assert (finding.level, said in finding.found) == (level, True)
    assert ("About 8 more CPUs" in finding.fix) == (needed == 3000)


@pytest.mark.parametrize(
    ("usd", "hours", "levels"),
    [(None, None, []), (100, None, ["pass"]), (1, None, ["warning"]), (100, 0.01, ["pass", "warning"])],
)
def test_budget(usd: float | None, hours: float | None, levels: list[Level]) -> None:
    scenarios = expected(BIG).scenarios
    assert [finding.level for finding in check_budget(usd, hours, scenarios)] == levels


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ({}, []),
        ({"storage": {"uri": "runs"}}, ["error"]),
        ({"storage": {"uri": "/shared/runs"}}, ["warning"]),
        ({"data": {"train": "shards", "held_out": "/held"}}, ["error", "warning"]),
        ({"data": {"mix": [{"uri": "a"}, {"uri": "s3://b/c"}]}}, ["error"]),
        ({"data": {"train": PLACEHOLDER_URI}}, ["warning"]),
        ({"tracking": {"uri": "sqlite:///runs/mlflow.db"}}, ["error"]),
        ({"tracking": {"uri": "sqlite:////shared/mlflow.db"}}, ["warning"]),
    ],
)
def test_places(values: dict[str, Any], levels: list[Level]) -> None:
    assert [finding.level for finding in check_places(recipe(**values), cluster(BIG))] == levels
    assert list(check_places(recipe(**values), cluster(BIG, kind="local"))) == []


def test_the_batch_is_shown_and_sharing_it_unevenly_is_noted() -> None:
    (fine,) = check_batch(resolved())
    assert (fine.level, "8 micro-batches of 64, 512 samples" in fine.found) == ("pass", True)
    _, uneven = check_batch(resolved(scale={"workers": 5, "use_gpu": True}))
    assert (uneven.level, "20%" in uneven.found) == ("warning", True)


def test_a_batch_that_the_workload_refuses_is_an_error() -> None:
    one = resolved()
    (finding,) = check_batch(replace(one, workload=one.workload.model_copy(update={"width": 65})))
    assert (finding.level, finding.found) == ("error", "width: must be at most 64.")


class DoubtfulEntry(ToyEntry):
    """Warns of short runs."""

    def warnings(self, config: Any, batch: BatchShape, steps: int) -> Iterator[Problem]:
        if steps < 4_000:
            yield Problem("width", f"{steps} steps of {batch.micro_batches * batch.micro_batch_size} are too few")


def test_what_the_workload_warns_of_is_a_warning_once_the_length_is_known() -> None:
    doubtful = replace(resolved(), entry=DoubtfulEntry())

    def found(seen: Observations) -> list[tuple[str, str, str]]:
        result = preflight_result(doubtful, cluster(BIG, CPU), PRICES, seen, Assumptions(0.5, None, 2))
        return [(one.name, one.level, one.found) for one in result.findings if one.level != "pass"]

    assert found(SEEN) == [("training", "warning", "width: 3907 steps of 512 are too few")]
    assert found(replace(SEEN, epoch_samples=1_100_000)) == []
    assert not [name for name, _, _ in found(replace(SEEN, epoch_samples=None)) if name == "training"]


def test_observations_travel_as_json_and_complete_each_other() -> None:
    here = Observations(decode_cpu_s=0.1, epoch_samples=5)
    assert Observations.from_json(SEEN.to_json() | {"from a later version": 1}) == SEEN
    assert SEEN.completed_by(here) == SEEN
    assert here.completed_by(SEEN) == replace(here, footprint=FOOTPRINT)
