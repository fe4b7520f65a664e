"""Runs a plan on Ray and keeps its books: MLflow, quarantine, status, costs. One driver per run."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.spec.cluster import NodeGroup
from orchestrator.spec.growth import read_growth
from orchestrator.spec.prices import PriceTable
from orchestrator.spec.recipe import Recipe
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.feed import Opening
from orchestrator.stream.segment import Delivery, warm_up
from orchestrator.track.costs import Kind, Spent
from orchestrator.track.tracker import Tracker
from orchestrator.train.books import Books
from orchestrator.train.budget import refuse_used_up
from orchestrator.train.channel import Channel
from orchestrator.train.claim import Claim
from orchestrator.train.cost_meter import CostMeter, kinds_of, metering
from orchestrator.train.display import Display
from orchestrator.train.failure import explained, failure_of
from orchestrator.train.growth import largest, least_bundles
from orchestrator.train.interrupts import stop_on
from orchestrator.train.machines import Gathering, Growth, present_decoded_share, present_nodes
from orchestrator.train.plan import Plan
from orchestrator.train.ray_session import ray_session
from orchestrator.train.spending import Spending
from orchestrator.train.start import Start
from orchestrator.train.trainer import make_trainer
from orchestrator.train.watching import MachineWatch, Watching
from orchestrator.train.worker import Assignment


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Args:
        status: FINISHED, or KILLED when it was asked to stop or its budget is used up.
        steps_done: steps that are done.
        spent: what it has used, in all its starts.
        stopped_by: the key of the budget that is used up, and how far; empty otherwise.
    """

    status: str
    steps_done: int
    spent: Spent
    stopped_by: str = ""


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
    recipe = plan.recipe
    meter = CostMeter(plan.run.costs, partial(_kinds, prices, _owned(recipe)))
    refuse_used_up(recipe.budget, meter.spent(), recipe.name)
    interrupted = threading.Event()
    with stop_on(signal.SIGINT, interrupted):
        books = _open_books(plan, start, display, meter)
        spending = Spending(meter, recipe.budget, recipe.name, display.message)
        status = "FAILED"
        log = log_folder(plan) / "ray.log"
        try:
            with (
                ray_session(recipe.scale, os.cpu_count() or 1, log, recipe.recovery),
                stop_on(signal.SIGTERM, interrupted),  # Ray sets a handler of its own when it starts
                metering(meter, display.message),
            ):
                spending.begin()
                if _gather(plan, display, spending, interrupted, prices):
                    _run_on_ray(plan, start, books, spending, machines, interrupted)
            status = "FINISHED" if books.steps_done >= plan.steps else "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Exception as error:
            failure = failure_of(error, books.last_fault, plan, log)
            books.failed(failure)
            raise explained(failure, plan) from error
        finally:
            stopped_by = spending.stopped_by if status == "KILLED" else ""
            books.close(status, stopped_by)
    return Outcome(status, books.steps_done, meter.spent(), stopped_by)


def log_folder(plan: Plan) -> Path:
    """Return the local folder for a run's logs: in the run's folder when that is local."""
    if plan.run.root.is_local:
        return Path(plan.run.root.path) / "logs"
    return Path.home() / ".local" / "state" / "fuseray" / plan.recipe.name


def _groups(recipe: Recipe) -> tuple[NodeGroup, ...] | None:
    """Return the machines that the cluster can have, None when it stays as it is."""
    return None if recipe.scale.address == "local" else read_growth(os.environ)


def _owned(recipe: Recipe) -> bool:
    groups = _groups(recipe)
    return recipe.scale.address == "local" if groups is None else all(group.market == "owned" for group in groups)


def _kinds(prices: PriceTable | None, owned: bool) -> list[Kind]:
    return kinds_of(ray.nodes(), prices, owned)


def _open_books(plan: Plan, start: Start, display: Display, meter: CostMeter) -> Books:
    recipe = plan.recipe
    if start.previous is None:
        tracker = Tracker.start(
            recipe.tracking.uri,
            recipe.tracking.experiment,
            recipe.name,
            {"run_folder": plan.run.root.uri},
            display.message,
            recipe.tracking.artifacts,
        )
        file = RunFile(
            name=recipe.name,
            recipe_digest=plan.resolved.digest(),
            index_digest=plan.data.digest,
            tracking_uri=recipe.tracking.uri,
            mlflow_run_id=tracker.run_id,
            steps=plan.steps,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            status="RUNNING",
        )
    else:
        file = replace(start.previous, status="RUNNING", ended="")
        tracker = Tracker.resume(file.tracking_uri, file.mlflow_run_id, display.message)
    tracker.params(plan.resolved.values())
    return Books(plan, file, tracker, display, start.first_step, lambda: meter.costs)


def _gather(
    plan: Plan, display: Display, spending: Spending, interrupted: threading.Event, prices: PriceTable | None
) -> bool:
    """Wait until the machines are there that the run cannot begin without; return whether they are."""
    recipe = plan.recipe
    groups = _groups(recipe)
    growth = None if groups is None else Growth(largest(groups, prices.machines if prices else {}))
    wish = Claim(f"{plan.run.root.uri} (to begin)", least_bundles(recipe))
    gathering = Gathering(recipe, growth, wish, display.message)
    return gathering.wait(lambda: interrupted.is_set() or spending.used_up())


def _run_on_ray(
    plan: Plan,
    start: Start,
    books: Books,
    spending: Spending,
    machines: MachineWatch | None,
    interrupted: threading.Event,
) -> None:
    books.machines(len(present_nodes()), plan.recipe.scale.most_workers)
    assignment = _assignment(plan, start, books)
    try:
        Watching(assignment, books, spending, machines, interrupted).run(
            lambda: make_trainer(plan, assignment, log_folder(plan)).fit()
        )
    finally:
        if machines is not None:
            machines.stop()


def _assignment(plan: Plan, start: Start, books: Books) -> Assignment:
    """Return what the workers are told; reading starts up in the meantime, in the background."""
    scale, opening = plan.recipe.scale, None
    delivery = plan.delivery(present_decoded_share(plan, scale.most_workers))
    number = start.first_step * plan.recipe.batch.micro_batches
    threading.Thread(target=_warm_up, args=(delivery, number), daemon=True, name="stream-warm-up").start()
    if scale.fewest_workers == scale.most_workers:
        opening = Opening.of(delivery, plan.sharing(start.first_step, scale.most_workers))
    return Assignment(plan, books.mlflow_run_id, _channel(), opening)


def _channel() -> Any:
    """Start the channel on the driver's own machine, so that no other one can take it along."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Channel)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()


def _warm_up(delivery: Delivery, number: int) -> None:
    with suppress(Exception):  # what fails here fails again where it is needed, and is explained there
        warm_up(delivery, number)
