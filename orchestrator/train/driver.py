"""Runs a plan on Ray: on its own, or among others in a process that has joined Ray already. One driver per run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType

import ray

from orchestrator.config.cluster import NodeGroup, read_node_groups
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.loader import Opening
from orchestrator.stream.ray_dataset import Delivery, warm_up
from orchestrator.track.cost import RunCost
from orchestrator.track.tracker import Tracker
from orchestrator.train.budget import CostMeter, Spending, kinds_of, metering, refuse_used_up
from orchestrator.train.control_channel import Channel, Display
from orchestrator.train.monitor import MachineWatch, RunMonitor
from orchestrator.train.plan import Plan
from orchestrator.train.ray_session import ray_session, start_actor_on_driver_node
from orchestrator.train.ray_trainer import make_trainer
from orchestrator.train.recovery.classify import explained, failure_of
from orchestrator.train.resources import (
    AutoscalingCapacity,
    AutoscalingRequest,
    NodeWait,
    largest,
    least_bundles,
    present_decoded_share,
    present_nodes,
)
from orchestrator.train.resume import Start
from orchestrator.train.run_logger import RunLogger
from orchestrator.train.worker import Assignment

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
        ConfigError: the budget is used up already; nothing was started.
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
    """
    interrupted = threading.Event()
    driving = RunDriver(plan, start, display, interrupted, _meter(plan, prices), machines, prices)
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
        ConfigError: the budget is used up already; nothing was started.
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
    """
    meter = _meter(plan, prices, share)
    return RunDriver(plan, start, display, interrupted, meter, None, prices, tags or {}).run(nullcontext)


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
        ConfigError: the budget is used up already.
    """
    meter = new_meter(plan.run.costs, plan.recipe, prices, share)
    refuse_used_up(plan.recipe.budget, meter.spent(), plan.recipe.name)
    return meter


# One start of a run on Ray, and its books: MLflow, quarantine, status, costs.


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
    spent: RunCost
    stopped_by: str = ""


@dataclass(frozen=True)
class RunDriver:
    """One start of a run.

    Args:
        plan: what to do.
        start: whether this is a new run or the continuation of one.
        display: shows progress.
        interrupted: set when the run is to stop with a checkpoint.
        meter: meters its machines.
        machines: looks for notices of preemption; None when nobody in this run does.
        prices: what machines cost; None when that is not known.
        tags: of a new run in MLflow, beside its own.
    """

    plan: Plan
    start: Start
    display: Display
    interrupted: threading.Event
    meter: CostMeter
    machines: MachineWatch | None = None
    prices: PriceTable | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def run(self, session: Callable[[], AbstractContextManager[None]]) -> Outcome:
        """Train within a session of Ray; whatever comes of it is entered into the books.

        Raises:
            TrainingError: the run failed; the message says why and where the log is.
            TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
        """
        plan, books = self.plan, self._open_books()
        spending = Spending(self.meter, plan.recipe.budget, plan.recipe.name, self.display.log)
        status = "FAILED"
        try:
            with session(), metering(self.meter, self.display.log):
                spending.begin()
                if self._gather(spending):
                    self._train(books, spending)
            status = "FINISHED" if books.steps_done >= plan.steps else "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Exception as error:
            failure = failure_of(error, books.last_fault, plan, log_folder(plan) / "ray.log")
            books.failed(failure)
            raise explained(failure, plan) from error
        finally:
            stopped_by = spending.stopped_by if status == "KILLED" else ""
            books.close(status, stopped_by)
        return Outcome(status, books.steps_done, self.meter.spent(), stopped_by)

    def _open_books(self) -> RunLogger:
        plan, recipe, previous = self.plan, self.plan.recipe, self.start.previous
        if previous is None:
            tracker = Tracker.start(
                recipe.tracking.uri,
                recipe.tracking.experiment,
                recipe.name,
                {"run_folder": plan.run.root.uri, **self.tags},
                self.display.log,
                recipe.tracking.artifacts,
            )
            file = _new_file(plan, tracker.run_id)
        else:
            file = replace(previous, status="RUNNING", ended="")
            tracker = Tracker.resume(file.tracking_uri, file.mlflow_run_id, self.display.log)
        books = RunLogger(plan, file, tracker, self.display, self.start.first_step, lambda: self.meter.costs)
        tracker.params(plan.resolved.values())
        return books

    def _gather(self, spending: Spending) -> bool:
        """Wait until the machines are there that the run cannot begin without; return whether they are."""
        recipe, groups = self.plan.recipe, groups_of(self.plan.recipe)
        capacity = (
            None
            if groups is None
            else AutoscalingCapacity(largest(groups, self.prices.machines if self.prices else {}))
        )
        request = AutoscalingRequest(f"{self.plan.run.root.uri} (to begin)", least_bundles(recipe))
        gathering = NodeWait(recipe, capacity, request, self.display.log)
        return gathering.wait(lambda: self.interrupted.is_set() or spending.used_up())

    def _train(self, books: RunLogger, spending: Spending) -> None:
        plan = self.plan
        books.machines(len(present_nodes()), plan.recipe.scale.max_workers)
        assignment = self._assignment(books)
        try:
            RunMonitor(assignment, books, spending, self.machines, self.interrupted).run(
                lambda: make_trainer(plan, assignment, log_folder(plan)).fit()
            )
        finally:
            if self.machines is not None:
                self.machines.stop()

    def _assignment(self, books: RunLogger) -> Assignment:
        """Return what the workers are told; reading starts up in the meantime, in the background."""
        plan, scale, opening = self.plan, self.plan.recipe.scale, None
        delivery = plan.delivery(present_decoded_share(plan, scale.max_workers))
        number = self.start.first_step * plan.recipe.batch.micro_batches
        threading.Thread(target=_warm_up, args=(delivery, number), daemon=True, name="stream-warm-up").start()
        if scale.min_workers == scale.max_workers:
            opening = Opening.of(delivery, plan.sharing(self.start.first_step, scale.max_workers))
        return Assignment(plan, books.mlflow_run_id, start_actor_on_driver_node(Channel), opening)


def log_folder(plan: Plan) -> Path:
    """Return the local folder for a run's logs: in the run's folder when that is local."""
    return log_folder_of(plan.run.root, plan.recipe.name)


def log_folder_of(root: Location, name: str) -> Path:
    """Return the local folder for the logs of something with a folder and a name: in its folder when that is local."""
    return Path(root.path) / "logs" if root.is_local else Path.home() / ".local" / "state" / "fuseray" / name


def groups_of(recipe: Recipe) -> tuple[NodeGroup, ...] | None:
    """Return the machines that a recipe's cluster can have, None when it stays as it is."""
    return None if recipe.scale.address == "local" else read_node_groups(os.environ)


def new_meter(folder: Location, recipe: Recipe, prices: PriceTable | None, share: float = 1.0) -> CostMeter:
    """Return what meters the machines of the Ray that a recipe runs on.

    Args:
        folder: the record of its machines.
        recipe: says where Ray is.
        prices: what machines cost; None when that is not known.
        share: the part of the machines that is charged.

    Raises:
        CostRecordError: the record is damaged.
        StorageError: it cannot be read.
    """
    groups = groups_of(recipe)
    local = recipe.scale.address == "local"
    owned = local if groups is None else all(group.market == "owned" for group in groups)
    return CostMeter(folder, lambda: kinds_of(ray.nodes(), prices, owned), share)


def _new_file(plan: Plan, mlflow_run_id: str) -> RunFile:
    return RunFile(
        name=plan.recipe.name,
        recipe_digest=plan.resolved.digest(),
        index_digest=plan.data.digest,
        tracking_uri=plan.recipe.tracking.uri,
        mlflow_run_id=mlflow_run_id,
        steps=plan.steps,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status="RUNNING",
    )


def _warm_up(delivery: Delivery, number: int) -> None:
    with suppress(Exception):  # what fails here fails again where it is needed, and is explained there
        warm_up(delivery, number)


# Signals that ask a driver to stop.


@contextmanager
def stop_on(number: signal.Signals, asked: threading.Event) -> Iterator[None]:
    """Turn the first signal of a kind into a wish to stop; the second one does what it would have done anyway.

    Args:
        number: the signal.
        asked: set by the first one.
    """
    otherwise = signal.default_int_handler if number is signal.SIGINT else signal.getsignal(number)
    previous = signal.getsignal(number)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, otherwise)

    signal.signal(number, on_signal)
    try:
        yield
    finally:
        signal.signal(number, previous)
