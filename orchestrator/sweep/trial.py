"""A trial as Ray Tune sees it: a whole Fuseray run, with workers, checkpoints and recovery of its own."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orchestrator.config.errors import FuserayError
from orchestrator.config.loading import ResolvedRecipe
from orchestrator.config.prices import PriceTable
from orchestrator.config.sweep import Assignment, ResolvedSweep
from orchestrator.storage.location import Location
from orchestrator.storage.retry import StorageError
from orchestrator.sweep.folder import trial_name
from orchestrator.sweep.lineage import Lineage, inherited
from orchestrator.sweep.outage import once_mlflow_is_back
from orchestrator.sweep.reports import Report, Reports, earlier_reports
from orchestrator.sweep.results import LINEAGE, OUTCOME, REASON, RUNGS, SAMPLES
from orchestrator.sweep.schedulers import GIVEN
from orchestrator.sweep.trial_run import LOG, TrialRun
from orchestrator.track.client import TrackingAwayError
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
        bell: an actor of class `Bell`.
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
    bell: Any
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
            TrackingAwayError: MLflow was away for an hour as the run was to begin.
            StorageError: storage is.
        """
        try:
            report = once_mlflow_is_back(self._next, LOG.warning)
        except (TrackingAwayError, StorageError):
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
        except TrackingAwayError:
            self._run = None
            raise

    def _asked_to_stop(self) -> str:
        return str(ray.get(self._shared.bell.rung.remote()))

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
