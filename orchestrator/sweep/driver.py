"""The driver of a sweep: runs its trials with Ray Tune, each driven by a process of its own on the driver's node.

Also the monitor that stops a sweep before its end: by Ctrl-C, or when its budget is used up.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import ScaleSection
from orchestrator.config.sweep import Assignment, SweepBudgetSection
from orchestrator.storage.lease import HeldLease, LeaseError, Waiting, hold_lease
from orchestrator.sweep.estimate import concurrency_warning
from orchestrator.sweep.folder import SweepFolder, TrialRecord
from orchestrator.sweep.plan import SweepPlan, cluster_capacity, concurrent_trials, local_capacity
from orchestrator.sweep.results import TrialSpending
from orchestrator.sweep.rungs import first_rung
from orchestrator.sweep.sweep_logger import SweepLogger, TrialRecords, finalize_orphaned_trials
from orchestrator.sweep.trial import SweepContext
from orchestrator.sweep.tune import tune_trials
from orchestrator.track.cost import RunCost
from orchestrator.train.budget import CostMeter, metering
from orchestrator.train.control_channel import StopSignal
from orchestrator.train.driver import log_folder_of, new_meter, stop_on_signal
from orchestrator.train.ray_session import ray_session, start_actor_on_driver_node

DECODED_CACHE_MB = 10_000
"""Size of the cache of decoded images that concurrent trials share on each machine, unless the recipe sets it."""


class SweepDisplay(Protocol):
    """Shows the progress of a sweep."""

    def log(self, text: str) -> None:
        """Show a line."""
        ...

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Show the records of all trials."""
        ...


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep ended.

    Args:
        status: FINISHED, or KILLED when the user stopped it or its budget is exhausted.
        trials: the records of its trials.
        spent: what its machines cost, in all its starts.
        stopped_by: the key of the exhausted budget, and how far it was used; empty otherwise.
    """

    status: str
    trials: tuple[TrialRecord, ...]
    spent: RunCost
    stopped_by: str = ""


def run_sweep(plan: SweepPlan, display: SweepDisplay, prices: PriceTable | None = None) -> SweepOutcome:
    """Run a sweep until all its trials are over, SIGINT or SIGTERM arrives, or its budget is exhausted.

    A sweep that was started before is resumed: trials that are over stay as they are, the others resume their runs.

    Args:
        plan: what to do.
        display: shows progress.
        prices: what machines cost; None when unknown.

    Raises:
        ConfigError: not even one trial fits.
        LeaseError: another driver works on the sweep, or took it over; this one left it alone.
        RaySessionError: Ray cannot be started or joined; nothing was recorded.
        TrackingError: MLflow cannot be reached, or lacks the run to resume; nothing was recorded.
    """
    interrupted = threading.Event()
    with stop_on_signal(signal.SIGINT, interrupted):
        return _SweepRun(plan, display, prices, interrupted).run()


@dataclass(frozen=True)
class _SweepRun:
    """One start of a sweep."""

    plan: SweepPlan
    display: SweepDisplay
    prices: PriceTable | None
    interrupted: threading.Event

    def run(self) -> SweepOutcome:
        """Run the sweep, and record how it ended, unless another driver took it over."""
        plan, waiting = self.plan, Waiting(self.display.log)
        with hold_lease(plan.folder.root, "sweep", waiting) as lease, self._session() as concurrent:
            if fewer := concurrency_warning(plan.trials, plan.sweep.sweep.concurrency, concurrent):
                self.display.log(fewer)
            logger = SweepLogger.open(plan, self.display.log)
            trials = TrialRecords(plan.folder, self.display.trials)
            meter = new_meter(plan.folder.costs, plan.base.recipe, self.prices)
            stop = StopCondition(self.interrupted, self._limits(meter, trials, lease), self.display.log)
            try:
                with metering(meter, self.display.log):
                    self._tune(logger, trials, stop, concurrent)
                lease.check()
                status = "KILLED" if stop.reason else "FINISHED"
            except LeaseError:
                logger.abandon()
                raise
            except BaseException:
                self._close(logger, "FAILED", stop, meter, trials)
                raise
            self._close(logger, status, stop, meter, trials)
        stopped_by = "" if stop.by_user else stop.reason
        return SweepOutcome(status, tuple(trials.all()), meter.spent(), stopped_by)

    def _close(
        self, logger: SweepLogger, status: str, stop: StopCondition, meter: CostMeter, trials: TrialRecords
    ) -> None:
        finalize_orphaned_trials(self.plan.folder, trials.all(), self.display.log)
        logger.close(status, stop.reason, meter.spent(), trials.all())

    def _tune(self, logger: SweepLogger, trials: TrialRecords, stop: StopCondition, concurrent: int) -> None:
        plan, stop_signal = self.plan, start_actor_on_driver_node(StopSignal)
        if stop.check():
            return
        context = SweepContext(
            sweep=plan.sweep,
            folder=plan.folder.root,
            parent_run_id=logger.mlflow_run_id,
            seed=plan.base.recipe.seed,
            first_rung=first_rung(plan.sweep.sweep.scheduler, plan.base.total_samples),
            report_steps=plan.report_steps,
            stop_signal=stop_signal,
            prices=self.prices,
            cost_share=1 / concurrent,
            overrides=_recipe_overrides(plan, concurrent),
            working_folder=logger.working_folder,
        )
        with stop.polling(stop_signal):
            tune_trials(context, trials, plan.base.total_samples, concurrent, lambda: bool(stop.reason))

    @contextmanager
    def _session(self) -> Iterator[int]:
        """Start Ray or connect to it; yield how many trials run at a time."""
        recipe, sweep = self.plan.base.recipe, self.plan.sweep.sweep
        scale, local = recipe.scale, recipe.scale.address == "local"
        concurrent = concurrent_trials(self.plan.trials, sweep.concurrency, recipe, local_capacity()) if local else 1
        log = log_folder_of(self.plan.folder.root, sweep.name) / "ray.log"
        with (
            ray_session(_with_object_store(scale, concurrent), os.cpu_count() or 1, log, recipe.recovery),
            stop_on_signal(signal.SIGTERM, self.interrupted),  # Ray sets a handler of its own when it starts
        ):
            if not local:
                capacity = cluster_capacity(recipe, self.prices)
                concurrent = concurrent_trials(self.plan.trials, sweep.concurrency, recipe, capacity)
            yield concurrent

    def _limits(self, meter: CostMeter, trials: TrialRecords, lease: HeldLease) -> Callable[[], str]:
        scale = self.plan.base.recipe.scale
        hours = GpuHours(self.plan.folder, trials, scale.max_workers if scale.use_gpu else 0)
        budget = self.plan.sweep.sweep.budget
        return lambda: TAKEN_OVER if lease.is_lost else exhausted_budget(budget, meter.spent(), hours)


def _recipe_overrides(plan: SweepPlan, concurrent: int) -> Assignment:
    """Return the values of recipe keys that a sweep sets in every trial; none of them changes a trial's result.

    Concurrent trials share a cache of decoded images, unless the recipe sets its size. Trials of PBT keep all their
    checkpoints, since a trial that had to wait may take over an older one.
    """
    overrides: dict[str, Any] = {}
    stream = plan.sweep.base.to_dict().get("stream") or {}
    if concurrent > 1 and "decoded_cache_mb" not in stream:
        overrides["stream.decoded_cache_mb"] = DECODED_CACHE_MB
    if plan.sweep.sweep.scheduler.kind == "pbt":
        overrides["checkpoint.keep"] = 2 * math.ceil(plan.base.steps / plan.base.recipe.checkpoint.every_steps)
    return overrides


def _with_object_store(scale: ScaleSection, concurrent: int) -> ScaleSection:
    """Return Ray's address and settings, with an object store for all concurrent trials."""
    return scale.model_copy(update={"object_store_mb": scale.object_store_mb * concurrent})


POLL_INTERVAL_S = 1.0
STOPPED_BY_USER = "the sweep was asked to stop"
TAKEN_OVER = "another driver took the sweep over"


class StopCondition:
    """Decides whether, and why, a sweep stops before its end.

    Args:
        interrupted: set when the user stops it.
        exhausted_budget: returns the key of the exhausted budget, and how far it was used; empty while none is.
        log: receives messages for the user.
    """

    def __init__(
        self, interrupted: threading.Event, exhausted_budget: Callable[[], str], log: Callable[[str], None]
    ) -> None:
        self._interrupted = interrupted
        self._exhausted_budget = exhausted_budget
        self._log = log
        self.reason = ""

    @property
    def by_user(self) -> bool:
        """Whether the user stopped it."""
        return self.reason == STOPPED_BY_USER

    def check(self) -> str:
        """Return why the sweep has to stop; empty while it may continue."""
        if not self.reason:
            self.reason = STOPPED_BY_USER if self._interrupted.is_set() else self._exhausted_budget()
            if self.reason:
                self._log(f"{self.reason}; its trials stop with a checkpoint")
        return self.reason

    @contextmanager
    def polling(self, stop_signal: Any, interval_s: float = POLL_INTERVAL_S) -> Iterator[None]:
        """Check repeatedly in a thread while the body runs, and set the stop signal once the sweep has to stop.

        Args:
            stop_signal: an actor of class `StopSignal`.
            interval_s: seconds between two checks.
        """
        done = threading.Event()
        thread = threading.Thread(
            target=self._poll, args=(stop_signal, done, interval_s), daemon=True, name="sweep-stop"
        )
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _poll(self, stop_signal: Any, done: threading.Event, interval_s: float) -> None:
        while not done.wait(interval_s):
            if self.check():
                ray.get(stop_signal.set.remote(self.reason))
                return


def exhausted_budget(budget: SweepBudgetSection, spent: RunCost, gpu_hours: Callable[[], float]) -> str:
    """Return the key of the exhausted budget, and how far it was used; empty while none is.

    Args:
        budget: the sweep's section.
        spent: by the machines of the sweep, in all its starts.
        gpu_hours: returns those of all trials; called only when the budget limits them.
    """
    return next(_reached_limits(budget, spent, gpu_hours), "")


def _reached_limits(budget: SweepBudgetSection, spent: RunCost, gpu_hours: Callable[[], float]) -> Iterator[str]:
    if budget.hours is not None and spent.hours >= budget.hours:
        yield f"budget.hours: the sweep has taken {spent.hours:.3g} of {budget.hours:g} hours"
    if budget.usd is not None and spent.usd >= budget.usd:
        yield f"budget.usd: the sweep has cost {spent.usd:.2f} of {budget.usd:g} USD"
    if budget.gpu_hours is not None and (used := gpu_hours()) >= budget.gpu_hours:
        yield f"budget.gpu_hours: the trials have taken {used:.3g} of {budget.gpu_hours:g} GPU-hours"


class GpuHours:
    """Sums the GPU-hours of trials: the wall time of each, times its workers.

    Args:
        folder: the sweep's folder.
        trials: the records of its trials.
        gpus: of a trial; an elastic one counts with its maximum number of workers.
    """

    def __init__(self, folder: SweepFolder, trials: TrialRecords, gpus: int) -> None:
        self._spending = TrialSpending(folder)
        self._trials = trials
        self._gpus = gpus

    def __call__(self) -> float:
        """Return the GPU-hours so far."""
        return self._gpus * sum(spent.hours for spent in self._spending.read(self._trials.all()).values())
