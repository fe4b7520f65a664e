"""A trial as Ray Tune sees it: a whole Fuseray run, with workers, checkpoints and recovery of its own.

The run is new, or starts from another trial's checkpoint. Only its start needs MLflow, and waits while that is down.
"""

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
from orchestrator.storage.lease import LeaseError
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.storage.run_folder import RunFolder, checkpoint_step
from orchestrator.sweep.folder import SweepError, trial_name
from orchestrator.sweep.schedulers import LINEAGE, OUTCOME, REASON, RUNGS, SAMPLES, TRIAL_SPEC
from orchestrator.sweep.trial_runner import LOG, ReportSchedule, TrialReport, TrialRun, earlier_reports
from orchestrator.track.mlflow_errors import TrackingUnavailableError
from orchestrator.train.control_channel import RunObserver
from orchestrator.train.driver import Outcome, log_folder, run_on_cluster
from orchestrator.train.plan import Plan, make_plan
from orchestrator.train.ray_session import log_ray_to, ray_variables
from orchestrator.train.resume import continued_run, new_run

STATE_FILE = "trial.json"
PARENT_RUN_TAG = "mlflow.parentRunId"
"""MLflow's tag for the parent run of a nested run."""


@dataclass(frozen=True, slots=True)
class SweepContext:
    """What all trials of a sweep share.

    Args:
        sweep: the sweep.
        folder: the sweep's folder.
        parent_run_id: id of the sweep's own run in MLflow.
        seed: of the recipe that all trials share.
        first_rung: samples after which trials are first compared.
        report_steps: steps between two reports, for metrics that every step has.
        stop_signal: an actor of class `StopSignal`.
        prices: what machines cost; None when unknown.
        cost_share: share of the machines' cost that is charged to one trial.
        overrides: values of recipe keys that the sweep sets in every trial.
        working_folder: what relative paths of the recipe are relative to; Ray Tune changes to a folder of its own.
    """

    sweep: ResolvedSweep
    folder: Location
    parent_run_id: str
    seed: int
    first_rung: int
    report_steps: int
    stop_signal: Any
    prices: PriceTable | None
    cost_share: float
    overrides: Assignment
    working_folder: str

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives."""
        return [objective.metric for objective in self.sweep.sweep.objectives]

    def recipe(self, trial_spec: Mapping[str, Any], lineage: Lineage) -> ResolvedRecipe:
        """Return the recipe of a trial.

        Args:
            trial_spec: the trial's number, replica and assignment.
            lineage: the trial's run.
        """
        own = {
            **self.overrides,
            "name": lineage.run,
            "seed": self.seed + trial_spec["replica"],
            "storage.uri": self.folder.uri,
        }
        start = {} if lineage.start is None else {"start": dict(lineage.start)}
        return self.sweep.recipe(trial_spec["assignment"], own | start)


class SweepTrial(tune.Trainable):
    """Ray Tune's trainable: runs one configuration; returns a result per report, the last one marked as done.

    Tune's checkpoint of a trial names its run and the samples that were reported. A trial that finds its own run in one
    resumes it; one that finds another trial's run starts a new run from that run's checkpoint, with its own
    configuration.
    """

    def setup(self, config: dict[str, Any], context: SweepContext) -> None:  # type: ignore[override]
        """Store what to run; Tune calls it first."""
        os.chdir(context.working_folder)
        self._trial_spec = config[TRIAL_SPEC]
        self._context = context
        self._name = trial_name(self._trial_spec["number"], self._trial_spec["replica"])
        self._lineage = Lineage(**self._trial_spec["lineage"])
        self._run: TrialRun | None = None

    def step(self) -> dict[str, Any]:
        """Wait for the next report and return it; a run that fails is done, with the reason.

        Raises:
            TrackingUnavailableError: MLflow was down for an hour when the run was about to start.
            StorageError: storage cannot be reached.
            LeaseError: the process that drove the run before has not ended yet.
        """
        try:
            report = retry_while_mlflow_is_down(self._next, LOG.warning)
        except (TrackingUnavailableError, StorageError, LeaseError):
            raise  # transient: Ray Tune restarts the trial's process
        except FuserayError as error:
            return self._result(self._failure(str(error)))
        except Exception as error:
            return self._result(self._failure(f"{type(error).__name__}: {error}"))
        self._lineage = replace(self._lineage, samples=report.samples)
        return self._result(report)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write which run this is and up to where it was reported; the run's own checkpoints hold the rest."""
        Path(checkpoint_dir, STATE_FILE).write_text(json.dumps(asdict(self._lineage)))

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Read which run to continue; Tune calls it before the first step."""
        self._lineage = Lineage(**json.loads(Path(checkpoint, STATE_FILE).read_text()))

    def cleanup(self) -> None:
        """Stop the run with a checkpoint, if it still runs, which frees its machines."""
        if self._run is not None:
            self._run.end()

    def _next(self) -> TrialReport:
        if self._run is None:
            if reason := self._stop_reason():
                return TrialReport(self._lineage.samples, (), "PAUSED", reason)
            self._run = self._start()
        try:
            return self._run.next(self._stop_reason)
        except TrackingUnavailableError:
            self._run = None
            raise

    def _stop_reason(self) -> str:
        return str(ray.get(self._context.stop_signal.reason.remote()))

    def _start(self) -> TrialRun:
        context, assignment = self._context, self._trial_spec["assignment"]
        samples_per_step = context.sweep.recipe(assignment).recipe.batch.samples
        self._lineage = resolve_lineage(self._name, self._lineage, context.folder, samples_per_step, assignment)
        plan = make_plan(context.recipe(self._trial_spec, self._lineage))
        log_ray_to(log_folder(plan) / "ray.log")
        os.environ.update(ray_variables(plan.recipe.scale, plan.recipe.recovery))
        reports = ReportSchedule(context.metrics, samples_per_step, plan.steps, context.report_steps)
        return self._start_run(plan, reports)

    def _start_run(self, plan: Plan, reports: ReportSchedule) -> TrialRun:
        context = self._context
        start = continued_run(plan) if plan.run.exists() else new_run(plan)

        def train(observer: RunObserver, interrupted: threading.Event) -> Outcome:
            tags = {PARENT_RUN_TAG: context.parent_run_id}
            return run_on_cluster(plan, start, observer, interrupted, context.prices, context.cost_share, tags)

        earlier = earlier_reports(plan.run, reports)
        return TrialRun(train, reports, plan.total_samples, earlier, self._lineage.samples, start.done)

    def _failure(self, reason: str) -> TrialReport:
        return TrialReport(self._lineage.samples, (), "FAILED", reason)

    def _result(self, report: TrialReport) -> dict[str, Any]:
        return {
            **dict(zip(self._context.metrics, report.values, strict=False)),
            SAMPLES: report.samples,
            RUNGS: report.samples // self._context.first_rung,
            OUTCOME: report.outcome or "",
            REASON: report.reason,
            LINEAGE: asdict(self._lineage),
            "done": report.outcome is not None,
        }


@dataclass(frozen=True, slots=True)
class Lineage:
    """The run of a trial, and where it started from.

    Args:
        run: the run's name.
        samples: samples up to which the sweep has received its reports.
        start: the recipe's section `start`; None when it does not start from another run's checkpoint.
    """

    run: str
    samples: int = 0
    start: Mapping[str, Any] | None = None


def resolve_lineage(
    trial: str, state: Lineage, folder: Location, samples_per_step: int, assignment: Assignment
) -> Lineage:
    """Return the run that a trial continues, or the new run that it starts from another trial's checkpoint.

    The new run's name is derived from its checkpoint and its values, so that a trial that is restarted finds it.

    Args:
        trial: the trial's name.
        state: what Tune restored, which may be another trial's run.
        folder: the sweep's folder.
        samples_per_step: of both runs.
        assignment: values of the searched keys for the new run.

    Raises:
        SweepError: the other trial's run has no checkpoint at or before its last report.
    """
    if state.run == trial or state.run.startswith(f"{trial}-from-"):
        return state
    steps = state.samples // samples_per_step
    committed = RunFolder(folder / state.run).committed_checkpoints()
    saved = [checkpoint for checkpoint in committed if checkpoint_step(checkpoint) <= steps]
    if not saved:
        raise SweepError(f"{trial}: {state.run} has no checkpoint up to step {steps} to start from.")
    origin = f"{state.run} {checkpoint_step(saved[0])} {sorted(assignment.items())}"
    source = blake2b(origin.encode(), digest_size=4).hexdigest()
    start = {"checkpoint": saved[0].uri, "take": "everything"}
    return Lineage(f"{trial}-from-{source}", checkpoint_step(saved[0]) * samples_per_step, start)


RETRY_INTERVAL_S = 20.0
MAX_RETRIES = 180
"""An hour of retries."""

Result = TypeVar("Result")


def retry_while_mlflow_is_down(
    attempt: Callable[[], Result], log: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> Result:
    """Return the result of an attempt, which is retried while MLflow is down, for an hour at most.

    Args:
        attempt: idempotent.
        log: receives the error before every retry.
        pause: waits for some seconds.

    Raises:
        TrackingUnavailableError: MLflow is still down after the last retry.
    """
    for _ in range(MAX_RETRIES):
        try:
            return attempt()
        except TrackingUnavailableError as error:
            log(f"{error} Trying again in {RETRY_INTERVAL_S:.0f} s.")
            pause(RETRY_INTERVAL_S)
    return attempt()
