"""What a driver, without Ray, does to a run that cannot start, that another driver works on, or that was taken over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from runs import write_run
from shards import write_shards

from orchestrator.storage.lease import (
    LEASE_FILE,
    HeldLease,
    Lease,
    LeaseError,
    Process,
    Waiting,
    hold_lease,
    this_process,
)
from orchestrator.storage.run_folder import RunError
from orchestrator.train import driver
from orchestrator.train.budget import CostMeter
from orchestrator.train.control_channel import StepRecord
from orchestrator.train.driver import RunDriver
from orchestrator.train.plan import Plan
from orchestrator.train.ray_session import RaySessionError
from orchestrator.train.resume import ResumePoint, continued_run

FAR = Lease("f" * 32, Process("node-7", 41, "another boot", "1"), "2026-01-01T00:00:00+00:00")


class Screen:
    """Shows nothing."""

    def log(self, text: str) -> None: ...

    def step(self, record: StepRecord, skipped: int) -> None: ...


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A run that was stopped."""
    return write_run(tmp_path, f"data.train={write_shards(str(tmp_path / 'data'), 40)}")


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> list[HeldLease]:
    """The leases that drivers hold; waiting for them takes no time."""
    held: list[HeldLease] = []

    @contextmanager
    def recorded(*arguments: Any) -> Iterator[HeldLease]:
        with hold_lease(*arguments) as lease:
            held.append(lease)
            yield lease

    ticks = count()
    monkeypatch.setattr(driver, "hold_lease", recorded)
    monkeypatch.setattr(driver, "Waiting", lambda log: Waiting(log, lambda _: None, lambda: float(next(ticks))))
    return held


def driver_of(plan: Plan, point: ResumePoint) -> RunDriver:
    return RunDriver(plan, point, Screen(), threading.Event(), CostMeter(plan.run.costs, list))


def in_mlflow(plan: Plan) -> dict[str, str]:
    client = MlflowClient(plan.recipe.tracking.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(experiments)}


@contextmanager
def no_ray() -> Iterator[None]:
    raise RaySessionError("no Ray")
    yield


def never() -> Any:
    raise AssertionError("nothing may be started")


def test_without_ray_nothing_of_a_new_or_a_stopped_run_changes(plan: Plan, leases: list[HeldLease]) -> None:
    new = replace(plan, run=replace(plan.run, root=plan.run.root / "new"))
    before, file = in_mlflow(plan), plan.run.read()
    for each, point in ((new, ResumePoint(None)), (plan, continued_run(plan))):
        with pytest.raises(RaySessionError, match="no Ray"):
            driver_of(each, point).run(no_ray)
        assert not (each.run.root / LEASE_FILE).exists()
    assert (in_mlflow(plan), plan.run.read(), new.run.exists()) == (before, file, False)
    assert not plan.run.post_mortem.exists()


def test_a_run_that_another_driver_works_on_is_left_alone(plan: Plan, leases: list[HeldLease]) -> None:
    other = replace(FAR, holder=this_process())
    (plan.run.root / LEASE_FILE).write(other.to_json())
    before, file = in_mlflow(plan), plan.run.read()
    with pytest.raises(LeaseError, match="works on it since 2026-01-01"):
        driver_of(plan, continued_run(plan)).run(never)
    assert (in_mlflow(plan), plan.run.read()) == (before, file)
    assert Lease.of((plan.run.root / LEASE_FILE).read()) == other


@pytest.mark.parametrize("fails", [True, False])
def test_a_run_that_was_taken_over_is_left_to_the_other_driver(
    plan: Plan, leases: list[HeldLease], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def nodes(_: RunDriver, budget: object) -> bool:
        (plan.run.root / LEASE_FILE).write(FAR.to_json())
        leases[0].renew()
        if fails:
            raise ValueError("of what the other driver does")
        return False

    monkeypatch.setattr(RunDriver, "_wait_for_nodes", nodes)
    with pytest.raises(LeaseError, match="process 41 on node-7 took it over"):
        driver_of(plan, continued_run(plan)).run(nullcontext)
    assert plan.run.read().status == "RUNNING"
    assert list(in_mlflow(plan).values()) == ["RUNNING"]
    assert not plan.run.post_mortem.exists()
    assert Lease.of((plan.run.root / LEASE_FILE).read()) == FAR


def test_a_run_that_another_driver_finished_meanwhile_is_not_begun_again(plan: Plan, leases: list[HeldLease]) -> None:
    with pytest.raises(RunError, match="a run of this name exists"):
        driver_of(plan, ResumePoint(None)).run(never)
