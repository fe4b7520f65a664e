"""Runs a sweep on Ray Tune. One driver per sweep; every trial is driven by a process of its own beside it."""

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
from orchestrator.sweep.estimate import too_little_room
from orchestrator.sweep.folder import SweepFolder, TrialRecord
from orchestrator.sweep.plan import SweepPlan, cluster_room, room_here, trials_at_a_time
from orchestrator.sweep.results import TrialSpending
from orchestrator.sweep.rungs import first_rung
from orchestrator.sweep.sweep_logger import SweepLogger, Trials, tidy
from orchestrator.sweep.trial import Shared
from orchestrator.sweep.tune import tune_trials
from orchestrator.track.cost import RunCost
from orchestrator.train.budget import CostMeter, metering
from orchestrator.train.driver import log_folder_of, new_meter, stop_on
from orchestrator.train.ray_session import ray_session, start_actor_on_driver_node

DECODED_CACHE_MB = 10_000
"""Of decoded images that trials side by side share on each machine, where the recipe does not say it."""


class SweepDisplay(Protocol):
    """Shows a sweep to whoever is watching."""

    def log(self, text: str) -> None:
        """Show a line."""
        ...

    def trials(self, records: Sequence[TrialRecord]) -> None:
        """Show what is known of all trials."""
        ...


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep ended.

    Args:
        status: FINISHED, or KILLED when it was asked to stop or its budget is used up.
        trials: what became of the trials.
        spent: what its machines have come to, in all its starts.
        stopped_by: the key of the budget that is used up, and how far; empty otherwise.
    """

    status: str
    trials: tuple[TrialRecord, ...]
    spent: RunCost
    stopped_by: str = ""


def run_sweep(plan: SweepPlan, display: SweepDisplay, prices: PriceTable | None = None) -> SweepOutcome:
    """Run a sweep until all its trials are over, a signal asks to stop, or its budget is used up.

    A sweep that was started before goes on: trials that are over stay as they are, the others continue their runs.

    Args:
        plan: what to do.
        display: shows progress.
        prices: what machines cost; None when that is not known.

    Raises:
        ConfigError: there is no room for a trial.
        TrackingError: MLflow cannot be reached, or lacks the run that is to go on; nothing was started.
    """
    interrupted = threading.Event()
    with stop_on(signal.SIGINT, interrupted):
        return _Sweeping(plan, display, prices, interrupted).run()


@dataclass(frozen=True)
class _Sweeping:
    """One start of a sweep."""

    plan: SweepPlan
    display: SweepDisplay
    prices: PriceTable | None
    interrupted: threading.Event

    def run(self) -> SweepOutcome:
        """Run the sweep; whatever comes of it is entered into the books."""
        plan = self.plan
        with self._session() as at_a_time:
            if fewer := too_little_room(plan.trials, plan.sweep.sweep.concurrency, at_a_time):
                self.display.log(fewer)
            books = SweepLogger.open(plan, self.display.log)
            trials = Trials(plan.folder, self.display.trials)
            meter = new_meter(plan.folder.costs, plan.base.recipe, self.prices)
            ending = Ending(self.interrupted, self._limits(meter, trials), self.display.log)
            status = "FAILED"
            try:
                with metering(meter, self.display.log):
                    self._tune(books.mlflow_run_id, trials, ending, at_a_time)
                status = "KILLED" if ending.reason else "FINISHED"
            finally:
                tidy(plan.folder, trials.all(), self.display.log)
                books.close(status, ending.reason, meter.spent(), trials.all())
        stopped_by = "" if ending.asked else ending.reason
        return SweepOutcome(status, tuple(trials.all()), meter.spent(), stopped_by)

    def _tune(self, mlflow_run_id: str, trials: Trials, ending: Ending, at_a_time: int) -> None:
        plan, stop_signal = self.plan, start_actor_on_driver_node(StopSignal)
        if ending.look():
            return
        shared = Shared(
            sweep=plan.sweep,
            folder=plan.folder.root,
            parent=mlflow_run_id,
            seed=plan.base.recipe.seed,
            first_rung=first_rung(plan.sweep.sweep.scheduler, plan.base.total_samples),
            report_steps=plan.report_steps,
            stop_signal=stop_signal,
            prices=self.prices,
            share=1 / at_a_time,
            more=_set_by_sweep(plan, at_a_time),
            working_folder=os.getcwd(),
        )
        with ending.watched(stop_signal):
            tune_trials(shared, trials, plan.base.total_samples, at_a_time, lambda: bool(ending.reason))

    @contextmanager
    def _session(self) -> Iterator[int]:
        """Have Ray available; yield how many trials run at a time."""
        recipe, sweep = self.plan.base.recipe, self.plan.sweep.sweep
        scale, local = recipe.scale, recipe.scale.address == "local"
        at_a_time = trials_at_a_time(self.plan.trials, sweep.concurrency, recipe, room_here()) if local else 1
        log = log_folder_of(self.plan.folder.root, sweep.name) / "ray.log"
        with (
            ray_session(_for_trials(scale, at_a_time), os.cpu_count() or 1, log, recipe.recovery),
            stop_on(signal.SIGTERM, self.interrupted),  # Ray sets a handler of its own when it starts
        ):
            if not local:
                room = cluster_room(recipe, self.prices)
                at_a_time = trials_at_a_time(self.plan.trials, sweep.concurrency, recipe, room)
            yield at_a_time

    def _limits(self, meter: CostMeter, trials: Trials) -> Callable[[], str]:
        scale = self.plan.base.recipe.scale
        hours = GpuHours(self.plan.folder, trials, scale.max_workers if scale.use_gpu else 0)
        return lambda: used_up(self.plan.sweep.sweep.budget, meter.spent(), hours)


def _set_by_sweep(plan: SweepPlan, at_a_time: int) -> Assignment:
    """Return the values of recipe keys that a sweep sets in every trial; none of them changes a trial's result.

    Trials side by side share decoded images, unless the recipe says how. Trials that exchange checkpoints keep all of
    them, since one that had to wait may take over an older one.
    """
    more: dict[str, Any] = {}
    said = plan.sweep.base.to_dict().get("stream") or {}
    if at_a_time > 1 and "decoded_cache_mb" not in said:
        more["stream.decoded_cache_mb"] = DECODED_CACHE_MB
    if plan.sweep.sweep.scheduler.kind == "pbt":
        more["checkpoint.keep"] = 2 * math.ceil(plan.base.steps / plan.base.recipe.checkpoint.every_steps)
    return more


def _for_trials(scale: ScaleSection, at_a_time: int) -> ScaleSection:
    """Return where Ray is, with an object store for so many trials."""
    return scale.model_copy(update={"object_store_mb": scale.object_store_mb * at_a_time})


# Looks whether a sweep is to stop before its end, and tells its trials.


LOOK_EVERY_S = 1.0
ASKED = "the sweep was asked to stop"


class Ending:
    """Whether, and why, a sweep stops before its end.

    Args:
        interrupted: set when the user wants it to stop.
        used_up: the key of the budget that is used up, and how far; empty while nothing is.
        log: takes messages for the user.
    """

    def __init__(self, interrupted: threading.Event, used_up: Callable[[], str], log: Callable[[str], None]) -> None:
        self._interrupted = interrupted
        self._used_up = used_up
        self._log = log
        self.reason = ""

    @property
    def asked(self) -> bool:
        """Whether it stops because the user asked for it."""
        return self.reason == ASKED

    def look(self) -> str:
        """Return why the sweep is to stop; empty while it is not."""
        if not self.reason:
            self.reason = ASKED if self._interrupted.is_set() else self._used_up()
            if self.reason:
                self._log(f"{self.reason}; its trials stop with a checkpoint")
        return self.reason

    @contextmanager
    def watched(self, stop_signal: Any, every_s: float = LOOK_EVERY_S) -> Iterator[None]:
        """Look again and again while the body runs, in a thread, and ring the bell once the sweep is to stop.

        Args:
            stop_signal: an actor of class `StopSignal`.
            every_s: seconds between two looks.
        """
        over = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(stop_signal, over, every_s), daemon=True, name="sweep-ending"
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, stop_signal: Any, over: threading.Event, every_s: float) -> None:
        while not over.wait(every_s):
            if self.look():
                ray.get(stop_signal.set.remote(self.reason))
                return


# Tells all trials of a sweep that they are to stop.


class StopSignal:
    """Rings once. Lives as an actor beside the sweep's driver."""

    def __init__(self) -> None:
        self._reason = ""

    def set(self, reason: str) -> None:
        """Have all trials stop with a checkpoint."""
        self._reason = reason

    def reason(self) -> str:
        """Return why the trials are to stop; empty while they are not."""
        return self._reason


# Says when a sweep has used what it may.


def used_up(budget: SweepBudgetSection, spent: RunCost, gpu_hours: Callable[[], float]) -> str:
    """Return the key of the budget that is used up, and how far; empty while nothing is.

    Args:
        budget: the sweep's section.
        spent: by the machines of the sweep, in all its starts.
        gpu_hours: of all trials; asked when there is a budget of them.
    """
    return next(_reached(budget, spent, gpu_hours), "")


def _reached(budget: SweepBudgetSection, spent: RunCost, gpu_hours: Callable[[], float]) -> Iterator[str]:
    if budget.hours is not None and spent.hours >= budget.hours:
        yield f"budget.hours: the sweep has taken {spent.hours:.3g} of {budget.hours:g} hours"
    if budget.usd is not None and spent.usd >= budget.usd:
        yield f"budget.usd: the sweep has cost {spent.usd:.2f} of {budget.usd:g} USD"
    if budget.gpu_hours is not None and (used := gpu_hours()) >= budget.gpu_hours:
        yield f"budget.gpu_hours: the trials have taken {used:.3g} of {budget.gpu_hours:g} GPU-hours"


class GpuHours:
    """Adds up the GPU-hours of trials: the wall time of each, times its workers.

    Args:
        folder: the sweep's folder.
        trials: the record of its trials.
        gpus: of a trial; an elastic one counts with its most workers.
    """

    def __init__(self, folder: SweepFolder, trials: Trials, gpus: int) -> None:
        self._spending = TrialSpending(folder)
        self._trials = trials
        self._gpus = gpus

    def __call__(self) -> float:
        """Return the GPU-hours up to now."""
        return self._gpus * sum(spent.hours for spent in self._spending.read(self._trials.all()).values())
