"""Runs a plan on Ray: starts the cluster session, workers and logging, waits for the end, and reports a failure.

`run` starts or joins Ray itself; `run_on_cluster` runs in a process that is connected to Ray already, as a trial of a
sweep is. A run has one driver: it holds the lease of the run's folder.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from types import FrameType

import ray

from orchestrator.config.cluster import NodeGroup, read_node_groups
from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import Recipe
from orchestrator.storage.lease import HeldLease, LeaseError, Waiting, hold_lease
from orchestrator.storage.local_files import state_home
from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.loader import PrefetchedSegment
from orchestrator.stream.ray_dataset import ReadPlan, warm_up
from orchestrator.track.cost import RunCost
from orchestrator.train.budget import BudgetMonitor, CostMeter, machine_kinds, metering, refuse_used_up
from orchestrator.train.control_channel import Assignment, Channel, RunObserver
from orchestrator.train.evaluation.beside import BesideEvaluation
from orchestrator.train.monitor import MachineWatch, RunMonitor
from orchestrator.train.plan import Plan
from orchestrator.train.ray_session import ray_session, start_actor_on_driver_node
from orchestrator.train.ray_trainer import make_trainer
from orchestrator.train.recovery.failure_report import report_failure, training_error
from orchestrator.train.resources import (
    AutoscalingCapacity,
    AutoscalingRequest,
    NodeWait,
    minimum_bundles,
    nodes_at_full_size,
    present_decoded_share,
    present_nodes,
)
from orchestrator.train.resume import ResumePoint, continued_run, new_run
from orchestrator.train.run_logger import RunLogger, new_tracker, resumed_tracker

FOLDER_TAG = "run_folder"
"""MLflow's tag for the URI of the run's folder."""

__all__ = ["Outcome", "log_folder", "run", "run_on_cluster"]


def run(
    plan: Plan,
    resume_point: ResumePoint,
    display: RunObserver,
    machines: MachineWatch | None = None,
    prices: PriceTable | None = None,
) -> Outcome:
    """Train until the plan is done, a signal stops it, the budget is used up, or it fails.

    Args:
        plan: what to do.
        resume_point: where the run begins or resumes.
        display: shows progress.
        machines: watches for preemption notices; None when this run has none.
        prices: prices of machines; None when unknown.

    Raises:
        ConfigError: the budget is used up already; nothing was started.
        LeaseError: another driver works on the run, or took it over; this one left it alone.
        RaySessionError: Ray cannot be started or joined; nothing was recorded.
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run to be resumed; nothing was recorded.
    """
    interrupted = threading.Event()
    driver = RunDriver(plan, resume_point, display, interrupted, _meter(plan, prices), machines, prices)
    with stop_on_signal(signal.SIGINT, interrupted):
        return driver.run(partial(_session, plan, interrupted))


def run_on_cluster(
    plan: Plan,
    resume_point: ResumePoint,
    display: RunObserver,
    interrupted: threading.Event,
    prices: PriceTable | None = None,
    share: float = 1.0,
    tags: Mapping[str, str] | None = None,
) -> Outcome:
    """Train as `run` does, in a process that is connected to Ray already, until done or until the event is set.

    Args:
        plan: what to do.
        resume_point: where the run begins or resumes.
        display: shows progress.
        interrupted: set when the run is to stop with a checkpoint.
        prices: prices of machines; None when unknown.
        share: the part of the cluster's machines that is charged to this run.
        tags: further tags of a new run in MLflow.

    Raises:
        ConfigError: the budget is used up already; nothing was started.
        LeaseError: another driver works on the run, or took it over; this one left it alone.
        TrainingError: the run failed; the message says why and where the log is.
        TrackingError: MLflow cannot be reached, or lacks the run to be resumed; nothing was recorded.
    """
    meter = _meter(plan, prices, share)
    return RunDriver(plan, resume_point, display, interrupted, meter, None, prices, tags or {}).run(nullcontext)


@contextmanager
def _session(plan: Plan, interrupted: threading.Event) -> Iterator[None]:
    recipe = plan.recipe
    with (
        ray_session(recipe.scale, os.cpu_count() or 1, log_folder(plan) / "ray.log", recipe.recovery),
        stop_on_signal(signal.SIGTERM, interrupted),  # Ray sets a handler of its own when it starts
    ):
        yield


def _meter(plan: Plan, prices: PriceTable | None, share: float = 1.0) -> CostMeter:
    """Return the run's meter.

    Raises:
        ConfigError: the budget is used up already.
    """
    meter = new_meter(plan.run.costs, plan.recipe, prices, share)
    refuse_used_up(plan.recipe.budget, meter.spent(), plan.run.root.uri)
    return meter


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Args:
        status: FINISHED, or KILLED when it was stopped or its budget is used up.
        steps_done: steps that are done.
        spent: cost and time of all starts of the run.
        stopped_by: the key of the budget that is used up, and its use; empty otherwise.
    """

    status: str
    steps_done: int
    spent: RunCost
    stopped_by: str = ""


@dataclass(frozen=True, slots=True)
class StartTime:
    """When a driver began, before it started Ray.

    Args:
        iso: ISO 8601 time.
        clock_s: the same by `perf_counter`.
    """

    iso: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    clock_s: float = field(default_factory=perf_counter)


@dataclass(frozen=True)
class RunDriver:
    """One start of a run.

    Args:
        plan: what to do.
        resume_point: where the run begins or resumes.
        display: shows progress.
        interrupted: set when the run is to stop with a checkpoint.
        meter: its cost meter.
        machines: watches for preemption notices; None when this run has none.
        prices: prices of machines; None when unknown.
        tags: further tags of a new run in MLflow.
    """

    plan: Plan
    resume_point: ResumePoint
    display: RunObserver
    interrupted: threading.Event
    meter: CostMeter
    machines: MachineWatch | None = None
    prices: PriceTable | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def run(self, session: Callable[[], AbstractContextManager[None]]) -> Outcome:
        """Train within a Ray session; logs how it ended.

        Raises:
            LeaseError: another driver works on the run, or took it over; this one left it alone.
            RunError: another driver finished or changed it meanwhile.
            RaySessionError: Ray cannot be started or joined; nothing was recorded.
            TrainingError: the run failed; the message says why and where the log is.
            TrackingError: MLflow cannot be reached, or lacks the run to be resumed; nothing was recorded.
        """
        start = StartTime()
        with hold_lease(self.plan.run.root, "run", Waiting(self.display.log)) as lease, ExitStack() as ray_session:
            point = self._present_point(lease)
            if point.done:
                return Outcome("FINISHED", point.first_step, self.meter.spent())
            ray_session.enter_context(session())
            return replace(self, resume_point=point)._run(ray_session, lease, start)

    def _present_point(self, lease: HeldLease) -> ResumePoint:
        """Return where the run begins or resumes; anew if another driver worked on it since that was decided."""
        previous = self.resume_point.previous
        if previous is None:
            return new_run(self.plan)
        if lease.contended or self.plan.run.read() != previous:
            return continued_run(self.plan, self.display.log)
        return self.resume_point

    def _run(self, ray_session: ExitStack, lease: HeldLease, start: StartTime) -> Outcome:
        plan, logger = self.plan, self.start_logger(start)
        budget = BudgetMonitor(self.meter, plan.recipe.budget, plan.run.root.uri, self.display.log)
        status = "FAILED"
        try:
            with ray_session, metering(self.meter, self.display.log):
                budget.check_prices()
                if self._wait_for_nodes(budget):
                    self._train(logger, budget, lease)
            lease.check()
            status = "FINISHED" if logger.steps_done >= plan.steps else "KILLED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except LeaseError:
            raise
        except Exception as error:
            lease.check()
            failure = report_failure(error, logger.last_failure, plan, log_folder(plan) / "ray.log")
            logger.log_failure(failure)
            raise training_error(failure, plan) from error
        finally:
            stopped_by = budget.stopped_by if status == "KILLED" else ""
            if lease.is_lost:
                logger.abandon()
            else:
                logger.close(status, stopped_by)
        return Outcome(status, logger.steps_done, self.meter.spent(), stopped_by)

    def start_logger(self, start: StartTime) -> RunLogger:
        """Start or resume the run in MLflow, and its log.

        Raises:
            TrackingError: MLflow cannot be reached, refuses, or lacks the run to be resumed; nothing was recorded.
        """
        plan, previous = self.plan, self.resume_point.previous
        if previous is None:
            tracker = new_tracker(plan, self.tags, self.display.log)
            file = _new_file(plan, tracker.run_id, start.iso)
        else:
            tracker = resumed_tracker(plan, previous, self.tags, self.display.log)
            file = replace(_new_file(plan, tracker.run_id, previous.created), index_digest=previous.index_digest)
        first_step, costs = self.resume_point.first_step, lambda: self.meter.costs
        logger = RunLogger(plan, file, tracker, self.display, first_step, costs, start.clock_s)
        tracker.params(plan.resolved.values())
        return logger

    def _wait_for_nodes(self, budget: BudgetMonitor) -> bool:
        """Wait until the cluster has the nodes that the run needs at least; return False when stopped before."""
        recipe, groups, capacity = self.plan.recipe, autoscaling_groups(self.plan.recipe), None
        if groups is not None:
            capacity = AutoscalingCapacity(nodes_at_full_size(groups, self.prices.machines if self.prices else {}))
        request = AutoscalingRequest(f"{self.plan.run.root.uri} (to begin)", minimum_bundles(recipe))
        wait = NodeWait(recipe, capacity, request, self.display.log)
        return wait.wait(lambda: self.interrupted.is_set() or budget.used_up())

    def _train(self, logger: RunLogger, budget: BudgetMonitor, lease: HeldLease) -> None:
        plan = self.plan
        logger.log_machines(len(present_nodes()), plan.recipe.scale.max_workers)
        beside = BesideEvaluation.of(plan, logger)  # before the workers, which would take all CPUs
        assignment = self._assignment(logger)
        try:
            RunMonitor(assignment, logger, budget, self.machines, self.interrupted, lease.check, beside).run(
                lambda: make_trainer(plan, assignment, log_folder(plan)).fit()
            )
        finally:
            if beside is not None:
                beside.close()
            if self.machines is not None:
                self.machines.stop()

    def _assignment(self, logger: RunLogger) -> Assignment:
        """Return what the workers are passed; meanwhile reading warms up in the background."""
        plan, scale, prefetched = self.plan, self.plan.recipe.scale, None
        read_plan = plan.read_plan(present_decoded_share(plan, scale.max_workers))
        number = self.resume_point.first_step * plan.recipe.batch.micro_batches
        threading.Thread(target=_warm_up, args=(read_plan, number), daemon=True, name="stream-warm-up").start()
        if scale.min_workers == scale.max_workers:
            prefetched = PrefetchedSegment.of(
                read_plan, plan.partition(self.resume_point.first_step, scale.max_workers)
            )
        return Assignment(plan, logger.mlflow_run_id, start_actor_on_driver_node(Channel), prefetched)


def log_folder(plan: Plan) -> Path:
    """Return the local folder for a run's logs: in the run's folder when that is local."""
    return log_folder_of(plan.run.root, plan.recipe.name)


def log_folder_of(root: Location, name: str) -> Path:
    """Return the local folder for the logs of a run or sweep: in its own folder when that is local."""
    return Path(root.path) / "logs" if root.is_local else state_home() / name


def autoscaling_groups(recipe: Recipe) -> tuple[NodeGroup, ...] | None:
    """Return the node groups that a recipe's cluster can scale, None when it does not autoscale."""
    return None if recipe.scale.address == "local" else read_node_groups(os.environ)


def new_meter(folder: Location, recipe: Recipe, prices: PriceTable | None, share: float = 1.0) -> CostMeter:
    """Return the cost meter of the cluster that a recipe runs on.

    Args:
        folder: of the cost record.
        recipe: names the cluster.
        prices: prices of machines; None when unknown.
        share: the share of the machines' cost that is charged.

    Raises:
        CostRecordError: the record is damaged.
        StorageError: it cannot be read.
    """
    groups = autoscaling_groups(recipe)
    local = recipe.scale.address == "local"
    owned = local if groups is None else all(group.market == "owned" for group in groups)
    return CostMeter(folder, lambda: machine_kinds(ray.nodes(), prices, owned), share)


def _new_file(plan: Plan, mlflow_run_id: str, created: str) -> RunFile:
    return RunFile(
        name=plan.recipe.name,
        recipe_digest=plan.resolved.digest(),
        index_digest=plan.data.digest,
        tracking_uri=plan.recipe.tracking.uri,
        mlflow_run_id=mlflow_run_id,
        steps=plan.steps,
        created=created,
        status="RUNNING",
    )


def _warm_up(read_plan: ReadPlan, number: int) -> None:
    with suppress(Exception):  # what fails here fails again where it is needed, and is reported there
        warm_up(read_plan, number)


@contextmanager
def stop_on_signal(number: signal.Signals, interrupted: threading.Event) -> Iterator[None]:
    """Request a graceful stop on the first signal; restore the default handler for the second.

    Args:
        number: the signal.
        interrupted: set by the first one.
    """
    default = signal.default_int_handler if number is signal.SIGINT else signal.getsignal(number)
    previous = signal.getsignal(number)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(number, default)

    signal.signal(number, on_signal)
    try:
        yield
    finally:
        signal.signal(number, previous)
