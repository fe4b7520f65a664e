"""Runs a plan on Ray: on its own, or among others in a process that has joined Ray already. One driver per run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial

from orchestrator.config.prices import PriceTable
from orchestrator.train.budget import refuse_used_up
from orchestrator.train.cost_meter import CostMeter
from orchestrator.train.display import Display
from orchestrator.train.driving import Driving, Outcome, log_folder, new_meter
from orchestrator.train.interrupts import stop_on
from orchestrator.train.plan import Plan
from orchestrator.train.ray_session import ray_session
from orchestrator.train.start import Start
from orchestrator.train.watching import MachineWatch

__all__ = ["Outcome", "log_folder", "run", "run_on_cluster"]


def run(
    plan: Plan,
    start: Start,
    display: Display,
    machines: MachineWatch | None = None,
    prices: PriceTable | None = None,
) -> Outcome:
    """Train until the plan is done, a signal asks to stop, the budget is used up, or something fails for good.

    Args:
        plan: what to do.
        start: whether this is a new run or the continuation of one.
        display: shows progress.
        machines: looks for notices of preemption; None when nobody in this run does.
        prices: what machines cost; None when that is not known.

    Raises:
        SpecError: the budget is used up already; nothing was started.
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
    """
    interrupted = threading.Event()
    driving = Driving(plan, start, display, interrupted, _meter(plan, prices), machines, prices)
    with stop_on(signal.SIGINT, interrupted):
        return driving.run(partial(_session, plan, interrupted))


def run_on_cluster(
    plan: Plan,
    start: Start,
    display: Display,
    interrupted: threading.Event,
    prices: PriceTable | None = None,
    share: float = 1.0,
    tags: Mapping[str, str] | None = None,
) -> Outcome:
    """Train as `run` does, in a process that has joined Ray already, until done or until the event is set.

    Args:
        plan: what to do.
        start: whether this is a new run or the continuation of one.
        display: shows progress.
        interrupted: set when the run is to stop with a checkpoint.
        prices: what machines cost; None when that is not known.
        share: the part of the cluster's machines that is charged to this run.
        tags: of a new run in MLflow, beside its own.

    Raises:
        SpecError: the budget is used up already; nothing was started.
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
    """
    meter = _meter(plan, prices, share)
    return Driving(plan, start, display, interrupted, meter, None, prices, tags or {}).run(nullcontext)


@contextmanager
def _session(plan: Plan, interrupted: threading.Event) -> Iterator[None]:
    recipe = plan.recipe
    with (
        ray_session(recipe.scale, os.cpu_count() or 1, log_folder(plan) / "ray.log", recipe.recovery),
        stop_on(signal.SIGTERM, interrupted),  # Ray sets a handler of its own when it starts
    ):
        yield


def _meter(plan: Plan, prices: PriceTable | None, share: float = 1.0) -> CostMeter:
    """Return the run's meter.

    Raises:
        SpecError: the budget is used up already.
    """
    meter = new_meter(plan.run.costs, plan.recipe, prices, share)
    refuse_used_up(plan.recipe.budget, meter.spent(), plan.recipe.name)
    return meter
