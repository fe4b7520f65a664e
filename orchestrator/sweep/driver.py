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

from orchestrator.config.prices import PriceTable
from orchestrator.config.recipe import ScaleSection
from orchestrator.config.sweep import Assignment
from orchestrator.sweep.bell import Bell
from orchestrator.sweep.books import SweepBooks
from orchestrator.sweep.budget import GpuHours, used_up
from orchestrator.sweep.ending import Ending
from orchestrator.sweep.folder import TrialRecord
from orchestrator.sweep.machines import cluster_room, room_here, trials_at_a_time
from orchestrator.sweep.plan import SweepPlan
from orchestrator.sweep.room import too_little_room
from orchestrator.sweep.rungs import first_rung
from orchestrator.sweep.tidying import tidy
from orchestrator.sweep.trial import Shared
from orchestrator.sweep.trials import Trials
from orchestrator.sweep.tuning import tune_trials
from orchestrator.track.cost import Spent
from orchestrator.train.budget import CostMeter, metering
from orchestrator.train.driver import log_folder_of, new_meter, stop_on
from orchestrator.train.ray_session import ray_session, start_beside

DECODED_CACHE_MB = 10_000
"""Of decoded images that trials side by side share on each machine, where the recipe does not say it."""


class SweepDisplay(Protocol):
    """Shows a sweep to whoever is watching."""

    def message(self, text: str) -> None:
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
    spent: Spent
    stopped_by: str = ""


def run_sweep(plan: SweepPlan, display: SweepDisplay, prices: PriceTable | None = None) -> SweepOutcome:
    """Run a sweep until all its trials are over, a signal asks to stop, or its budget is used up.

    A sweep that was started before goes on: trials that are over stay as they are, the others continue their runs.

    Args:
        plan: what to do.
        display: shows progress.
        prices: what machines cost; None when that is not known.

    Raises:
        SpecError: there is no room for a trial.
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
                self.display.message(fewer)
            books = SweepBooks.open(plan, self.display.message)
            trials = Trials(plan.folder, self.display.trials)
            meter = new_meter(plan.folder.costs, plan.base.recipe, self.prices)
            ending = Ending(self.interrupted, self._limits(meter, trials), self.display.message)
            status = "FAILED"
            try:
                with metering(meter, self.display.message):
                    self._tune(books.mlflow_run_id, trials, ending, at_a_time)
                status = "KILLED" if ending.reason else "FINISHED"
            finally:
                tidy(plan.folder, trials.all(), self.display.message)
                books.close(status, ending.reason, meter.spent(), trials.all())
        stopped_by = "" if ending.asked else ending.reason
        return SweepOutcome(status, tuple(trials.all()), meter.spent(), stopped_by)

    def _tune(self, mlflow_run_id: str, trials: Trials, ending: Ending, at_a_time: int) -> None:
        plan, bell = self.plan, start_beside(Bell)
        if ending.look():
            return
        shared = Shared(
            sweep=plan.sweep,
            folder=plan.folder.root,
            parent=mlflow_run_id,
            seed=plan.base.recipe.seed,
            first_rung=first_rung(plan.sweep.sweep.scheduler, plan.base.total_samples),
            report_steps=plan.report_steps,
            bell=bell,
            prices=self.prices,
            share=1 / at_a_time,
            more=_set_by_sweep(plan, at_a_time),
            working_folder=os.getcwd(),
        )
        with ending.watched(bell):
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
        hours = GpuHours(self.plan.folder, trials, scale.most_workers if scale.use_gpu else 0)
        return lambda: used_up(self.plan.sweep.sweep.budget, meter.spent(), hours)


def _set_by_sweep(plan: SweepPlan, at_a_time: int) -> Assignment:
    """Return the values of recipe keys that a sweep sets in every trial; none of them changes a trial's result.

    Trials side by side share decoded images, unless the recipe says how. Trials that exchange checkpoints keep all of
    them, since one that had to wait may take over an older one.
    """
    more: dict[str, Any] = {}
    said = plan.sweep.base.plain().get("stream") or {}
    if at_a_time > 1 and "decoded_cache_mb" not in said:
        more["stream.decoded_cache_mb"] = DECODED_CACHE_MB
    if plan.sweep.sweep.scheduler.kind == "pbt":
        more["checkpoint.keep"] = 2 * math.ceil(plan.base.steps / plan.base.recipe.checkpoint.every_steps)
    return more


def _for_trials(scale: ScaleSection, at_a_time: int) -> ScaleSection:
    """Return where Ray is, with an object store for so many trials."""
    return scale.model_copy(update={"object_store_mb": scale.object_store_mb * at_a_time})
