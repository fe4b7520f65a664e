"""What a sweep comes to on machines that are easy to reckon with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from planned import FOOTPRINT, PRICES, cluster, group

from orchestrator.cluster.findings import Finding
from orchestrator.config.cluster import Cluster
from orchestrator.config.sweep import ResolvedSweep, load_sweep
from orchestrator.plan.checks import Assumptions, PreflightResult, preflight_result
from orchestrator.plan.preflight import Observations
from orchestrator.sweep.estimate import (
    Capacity,
    SweepEstimate,
    TrialResources,
    estimate_findings,
    estimate_sweep,
    max_concurrent_trials,
)
from orchestrator.sweep.rungs import expected_full_runs

RECIPE = """\
workload: albef
data: {train: s3://bucket/train}
batch: {micro_batches: 8, micro_batch_size: 50}
length: {steps: 3600}
scale: {workers: 4, use_gpu: true, cpus_per_worker: 2}
stream: {reader_cpus: 4}
model: {preset: tiny}
storage: {uri: s3://bucket/runs}
tracking: {uri: http://mlflow:5000}
"""
TWO_MACHINES = cluster(group("gpus", "big-gpu", 2))
"""16 GPUs and 192 CPUs for 32 dollars an hour, and a head for 0.20."""


def load(folder: Path, *overrides: str) -> ResolvedSweep:
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "alpha.yaml").write_text(
        "recipe: mine.yaml\nobjectives: [{metric: loss, mode: min}]\nsearch: {method: random, trials: 12}\n"
        "space: {optimizer.learning_rate: 'loguniform(1e-5, 1e-3)'}\n"
    )
    return load_sweep(folder / "alpha.yaml", overrides)


def judged(sweep: ResolvedSweep, machines: Cluster = TWO_MACHINES, rate: float | None = 100.0) -> PreflightResult:
    return preflight_result(sweep.recipe({}), machines, PRICES, Observations(), Assumptions(0.25, rate, cpus_here=2))


def propose_tpe(folder: Path, *overrides: str, **how: Any) -> tuple[SweepEstimate, list[Finding]]:
    sweep = load(folder, *overrides)
    estimate = estimate_sweep(sweep, judged(sweep, **how))
    return estimate, list(estimate_findings(sweep, estimate))


def test_trials_share_the_gpus_and_take_turns(tmp_path: Path) -> None:
    """A trial sees 1,440,000 samples at 400 a second: one hour; twelve of them four at a time take three."""
    estimate, found = propose_tpe(tmp_path)
    assert (estimate.trials, estimate.side_by_side, estimate.bound, estimate.steps) == (12, 4, "GPUs", 3600)
    assert (estimate.needs.workers, estimate.needs.gpus, round(estimate.needs.cpus)) == (4, 4, 12)
    assert estimate.whole.samples == 12 * 1_440_000
    assert estimate.whole.hours == pytest.approx(3)
    assert estimate.whole.gpu_hours == pytest.approx(48)
    assert estimate.whole.usd["file"] == pytest.approx(3 * 32.2)
    assert estimate.whole.usd["on-demand"] == pytest.approx(3 * 80.2)
    assert estimate.trial.hours == pytest.approx(1)
    assert estimate.trial.usd["file"] == pytest.approx(32.2 / 4)
    assert estimate.expected is None
    assert [one.level for one in found] == ["pass"]


def test_early_stopping_is_expected_beside_the_most(tmp_path: Path) -> None:
    estimate, _ = propose_tpe(tmp_path, "scheduler={kind: asha}", "search.trials=40")
    assert estimate.expected is not None
    runs = expected_full_runs(load(tmp_path, "scheduler={kind: asha}").sweep.scheduler, 40)
    assert estimate.expected.runs == pytest.approx(runs)
    assert estimate.expected.hours == pytest.approx(runs / 4)
    assert estimate.likely is estimate.expected
    assert estimate.whole.hours == pytest.approx(10)


def test_replicas_are_trials_and_concurrency_is_a_bound(tmp_path: Path) -> None:
    estimate, _ = propose_tpe(tmp_path, "replicas=3", "concurrency=2", "search.trials=5")
    assert (estimate.configurations, estimate.trials, estimate.side_by_side, estimate.bound) == (
        5,
        15,
        2,
        "concurrency",
    )
    assert estimate.whole.hours == pytest.approx(8)


def test_trials_on_cpus_slow_each_other_down(tmp_path: Path) -> None:
    """Four samples a second on the two CPUs of this machine, whoever trains on them."""
    sweep = load(tmp_path, "overrides.scale={workers: 1, cpus_per_worker: 0.4}", "overrides.stream={reader_cpus: 1}")
    here = Cluster(
        kind="local", name="here", file=Path("/here.yaml"), settings={},
        groups=(group("here", None, 1, market="owned", fewest=1, head=True),),
    )  # fmt: skip
    seen = Observations(footprint=FOOTPRINT)
    result = preflight_result(sweep.recipe({}), here, PRICES, seen, Assumptions(0.25, None, cpus_here=2))
    one = estimate_sweep(sweep, result)
    assert (one.side_by_side, one.bound, one.needs.gpus) == (1, "CPUs", 0)
    assert one.whole.usd["file"] == 0
    two = estimate_sweep(sweep, result, capacity=Capacity(cpus=6, gpus=0))
    assert two.side_by_side == 4
    assert one.trial.hours == pytest.approx(1_440_000 / 2 / 3600)
    assert two.trial.hours == pytest.approx(1_440_000 / 1 / 3600)


def test_what_nobody_knows_stays_unknown(tmp_path: Path) -> None:
    estimate, found = propose_tpe(tmp_path, "overrides.length={epochs: 2}", "budget={hours: 1, usd: 5, gpu_hours: 2}")
    assert (estimate.steps, estimate.whole.samples, estimate.whole.hours) == (None, None, None)
    assert [one.level for one in found] == ["pass", "warning", "warning", "warning"]
    unpriced = cluster(group("gpus", "big-gpu", 2), group("more", "odd", 1, fewest=1, cpus=4))
    estimate, found = propose_tpe(tmp_path, "budget={usd: 5}", machines=unpriced)
    assert estimate.whole.usd["file"] is None
    assert "Name the prices with --prices FILE" in found[-1].fix


def test_a_budget_that_lasts_is_said_and_one_that_does_not_with_the_trials_that_it_buys(tmp_path: Path) -> None:
    _, found = propose_tpe(tmp_path, "budget={hours: 3, gpu_hours: 12, usd: 2}")
    assert [one.level for one in found] == ["pass", "pass", "warning", "warning"]
    assert found[1].found == "budget.hours is 3.00 h; the sweep needs 3.00 h (estimate)"
    assert "it lasts for about 3 of 12 trials" in found[2].found
    assert "it does not last for a whole trial" in found[3].found


def test_a_trial_without_room_is_refused(tmp_path: Path) -> None:
    estimate, found = propose_tpe(tmp_path, machines=cluster(group("gpus", "one-gpu", 3)))
    assert (estimate.side_by_side, estimate.bound) == (0, "GPUs")
    assert found[0].level == "error"
    assert "a trial needs 12 CPUs and 4 GPUs, and there are not so many GPUs" in found[0].found


@pytest.mark.parametrize(
    ("trials", "concurrency", "cpus", "gpus", "expected"),
    [
        (3, None, 100, 100, (3, "trials")),
        (30, 2, 100, 100, (2, "concurrency")),
        (30, None, 25, 100, (2, "CPUs")),
        (30, None, math.inf, 11, (5, "GPUs")),
        (30, None, 9, 11, (0, "CPUs")),
        (30, None, 100, 0, (0, "GPUs")),
    ],
)
def test_the_bound(trials: int, concurrency: int | None, cpus: float, gpus: float, expected: tuple[int, str]) -> None:
    assert max_concurrent_trials(trials, concurrency, TrialResources(2, 10, 2), Capacity(cpus, gpus)) == expected
