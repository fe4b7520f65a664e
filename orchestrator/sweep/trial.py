"""A trial as Ray Tune sees it: a whole Fuseray run, with workers, checkpoints and recovery of its own."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune

from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.prices import PriceTable
from orchestrator.config.sweep import Assignment, ResolvedSweep
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFolder, checkpoint_step
from orchestrator.sweep.folder import SweepError, trial_name
from orchestrator.sweep.schedulers import GIVEN, LINEAGE, OUTCOME, REASON, RUNGS, SAMPLES
from orchestrator.sweep.trial_runner import LOG, Report, Reports, TrialRun, earlier_reports
from orchestrator.track.client import TrackingUnavailableError
from orchestrator.train.control_channel import Display
from orchestrator.train.driver import Outcome, log_folder, run_on_cluster
from orchestrator.train.plan import Plan, make_plan
from orchestrator.train.ray_session import log_ray_to, ray_variables
from orchestrator.train.resume import continued_run, new_run

STATE = "trial.json"
PARENT = "mlflow.parentRunId"
"""MLflow's tag for the run that a run belongs to."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all trials of a sweep have in common.

    Args:
        sweep: the sweep.
        folder: the sweep's folder.
        parent: the sweep's own run in MLflow.
        seed: of the recipe that all trials share.
        first_rung: samples after which trials are first compared.
        report_steps: steps from report to report, for figures that every step has.
        stop_signal: an actor of class `StopSignal`.
        prices: what machines cost; None when that is not known.
        share: the part of the machines that is charged to a trial.
        more: values of recipe keys that the sweep sets in every trial.
        working_folder: where relative paths of the recipe begin; Ray Tune would have them begin in a folder of its own.
    """

    sweep: ResolvedSweep
    folder: Location
    parent: str
    seed: int
    first_rung: int
    report_steps: int
    stop_signal: Any
    prices: PriceTable | None
    share: float
    more: Assignment
    working_folder: str

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives."""
        return [one.metric for one in self.sweep.sweep.objectives]

    def recipe(self, given: Mapping[str, Any], lineage: Lineage) -> ResolvedRecipe:
        """Return the recipe of a trial.

        Args:
            given: its number, replica and assignment.
            lineage: its run.
        """
        own = {
            **self.more,
            "name": lineage.run,
            "seed": self.seed + given["replica"],
            "storage.uri": self.folder.uri,
        }
        start = {} if lineage.start is None else {"start": dict(lineage.start)}
        return self.sweep.recipe(given["assignment"], own | start)


class SweepTrial(tune.Trainable):
    """Runs one configuration; a result per report, the last one marked as done.

    Tune's checkpoint of a trial names its run and the samples that were reported. A trial that finds its own name in
    one goes on with its run; one that finds another's goes on from that run's weights and place with its own
    configuration.
    """

    def setup(self, config: dict[str, Any], shared: Shared) -> None:  # type: ignore[override]
        """Take note of what to run; Tune calls it before everything else."""
        os.chdir(shared.working_folder)
        self._given = config[GIVEN]
        self._shared = shared
        self._name = trial_name(self._given["number"], self._given["replica"])
        self._lineage = Lineage(**self._given["lineage"])
        self._run: TrialRun | None = None

    def step(self) -> dict[str, Any]:
        """Wait for the next report and return it; a run that fails for good is done, with the reason.

        Raises:
            TrackingUnavailableError: MLflow was away for an hour as the run was to begin.
            StorageError: storage is.
        """
        try:
            report = retry_while_mlflow_is_down(self._next, LOG.warning)
        except (TrackingUnavailableError, StorageError):
            raise  # they may pass: Ray Tune starts the trial's process again
        except FuserayError as error:
            return self._result(self._failure(str(error)))
        except Exception as error:
            return self._result(self._failure(f"{type(error).__name__}: {error}"))
        self._lineage = replace(self._lineage, samples=report.samples)
        return self._result(report)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write which run this is and how far it was reported; the run's own checkpoints hold the rest."""
        Path(checkpoint_dir, STATE).write_text(json.dumps(asdict(self._lineage)))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Read which run to go on with; Tune calls it before the first step."""
        self._lineage = Lineage(**json.loads(Path(checkpoint, STATE).read_text()))

    def cleanup(self) -> None:
        """Stop the run with a checkpoint, if it still runs; its machines are free then."""
        if self._run is not None:
            self._run.end()

    def _next(self) -> Report:
        if self._run is None:
            if asked := self._asked_to_stop():
                return Report(self._lineage.samples, (), "PAUSED", asked)
            self._run = self._begin()
        try:
            return self._run.next(self._asked_to_stop)
        except TrackingUnavailableError:
            self._run = None
            raise

    def _asked_to_stop(self) -> str:
        return str(ray.get(self._shared.stop_signal.reason.remote()))

    def _begin(self) -> TrialRun:
        shared, assignment = self._shared, self._given["assignment"]
        samples_per_step = shared.sweep.recipe(assignment).recipe.batch.samples
        self._lineage = inherited(self._name, self._lineage, shared.folder, samples_per_step, assignment)
        plan = make_plan(shared.recipe(self._given, self._lineage))
        log_ray_to(log_folder(plan) / "ray.log")
        os.environ.update(ray_variables(plan.recipe.scale, plan.recipe.recovery))
        reports = Reports(shared.metrics, samples_per_step, plan.steps, shared.report_steps)
        return self._started(plan, reports)

    def _started(self, plan: Plan, reports: Reports) -> TrialRun:
        shared = self._shared
        start = continued_run(plan) if plan.run.exists() else new_run(plan)

        def train(display: Display, interrupted: threading.Event) -> Outcome:
            tags = {PARENT: shared.parent}
            return run_on_cluster(plan, start, display, interrupted, shared.prices, shared.share, tags)

        before = earlier_reports(plan.run, reports)
        return TrialRun(train, reports, plan.total_samples, before, self._lineage.samples, start.done)

    def _failure(self, reason: str) -> Report:
        return Report(self._lineage.samples, (), "FAILED", reason)

    def _result(self, report: Report) -> dict[str, Any]:
        return {
            **dict(zip(self._shared.metrics, report.values, strict=False)),
            SAMPLES: report.samples,
            RUNGS: report.samples // self._shared.first_rung,
            OUTCOME: report.outcome or "",
            REASON: report.reason,
            LINEAGE: asdict(self._lineage),
            "done": report.outcome is not None,
        }


# Which run a trial goes on with: its own, or a new one that starts from another trial's checkpoint.


@dataclass(frozen=True, slots=True)
class Lineage:
    """A run of a trial.

    Args:
        run: its name.
        samples: samples up to which the sweep knows its reports.
        start: the recipe's section `start`; None when it does not start from another run's checkpoint.
    """

    run: str
    samples: int = 0
    start: Mapping[str, Any] | None = None


def inherited(trial: str, found: Lineage, folder: Location, samples_per_step: int, assignment: Assignment) -> Lineage:
    """Return how a trial goes on that was given a state, which may be another trial's.

    The new run's name follows from where it starts and with which values, so that a trial that is started again finds
    it.

    Args:
        trial: the trial's name.
        found: the state.
        folder: the sweep's folder.
        samples_per_step: of both runs.
        assignment: values of the searched keys from there on.

    Raises:
        SweepError: the other trial's run has no checkpoint of what it had reported.
    """
    if found.run == trial or found.run.startswith(f"{trial}-from-"):
        return found
    steps = found.samples // samples_per_step
    saved = [one for one in RunFolder(folder / found.run).committed_checkpoints() if checkpoint_step(one) <= steps]
    if not saved:
        raise SweepError(f"{trial}: {found.run} has no checkpoint up to step {steps} to go on from.")
    origin = f"{found.run} {checkpoint_step(saved[0])} {sorted(assignment.items())}"
    source = blake2b(origin.encode(), digest_size=4).hexdigest()
    start = {"checkpoint": saved[0].uri, "take": "everything"}
    return Lineage(f"{trial}-from-{source}", checkpoint_step(saved[0]) * samples_per_step, start)


# Patience with MLflow, which a trial needs only when it begins.


AGAIN_S = 20.0
WAITS = 180
"""An hour, of as many waits."""

Result = TypeVar("Result")


def retry_while_mlflow_is_down(
    attempt: Callable[[], Result], log: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> Result:
    """Return what an attempt comes to; it is made again as long as MLflow is away, for an hour at most.

    Args:
        attempt: can be made any number of times.
        log: is told what MLflow lacks, before every wait.
        pause: waits for some seconds.

    Raises:
        TrackingUnavailableError: MLflow is still away.
    """
    for _ in range(WAITS):
        try:
            return attempt()
        except TrackingUnavailableError as error:
            log(f"{error} Trying again in {AGAIN_S:.0f} s.")
            pause(AGAIN_S)
    return attempt()
