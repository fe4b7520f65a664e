"""Logs a run: to MLflow, the quarantine file, the run's file and the display; derives the metrics of every step."""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from orchestrator.config.commands import command_line
from orchestrator.config.document import value_at
from orchestrator.config.recipe_paths import is_same_place
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.loader import StreamMonitor
from orchestrator.stream.micro_batch import SkippedSample, read_quarantine, write_quarantine
from orchestrator.track.analysis import StepTimes, TimeSpent, step_seconds
from orchestrator.track.client import experiment_of_run
from orchestrator.track.cost import Costs, cost_tags
from orchestrator.track.metric_log import (
    Event,
    EventLog,
    MeasuredLog,
    MetricLog,
    MetricLogError,
    StepLine,
    event_tags,
    read_metric_log,
)
from orchestrator.track.mlflow_errors import TrackingError
from orchestrator.track.run_writer import Points
from orchestrator.track.tracker import RUN_NAME_TAG, Tracker, Unsent, system_tags
from orchestrator.train.control_channel import Message, RunObserver, StepRecord, WeightsReport
from orchestrator.train.plan import Plan, recipe_yaml
from orchestrator.train.recovery.failure_report import TAG, FailureReport, tag
from orchestrator.train.recovery.policy import AttemptFailure, AttemptStart, RecoveryEvents

TAG_CHARACTERS = 1000
"""Length that a tag is cut to; servers allow some thousands."""


class RunLogger:
    """Logs one start of a run.

    Args:
        plan: the plan.
        file: the content of the run's file.
        tracker: its MLflow run.
        display: shows progress.
        first_step: the first step of this start.
        costs: returns the run's costs so far.
        began_s: when this start began, by `perf_counter`; None for now.
    """

    def __init__(
        self,
        plan: Plan,
        file: RunFile,
        tracker: Tracker,
        display: RunObserver,
        first_step: int,
        costs: Callable[[], Costs] = Costs,
        began_s: float | None = None,
    ) -> None:
        self._plan = plan
        self._file = file
        self._tracker = tracker
        self._display = display
        self._costs = costs
        self._skipped: dict[int, SkippedSample] = {skip.position: skip for skip in read_quarantine(plan.run.quarantine)}
        self._counts = SkippedCounts(self._skipped.values())
        self._metrics = self._new_step_metrics(self._counts)
        self._events = EventLog(plan.run.events)
        self._measured = MeasuredLog(plan.run.measured)
        self._began_s = perf_counter() if began_s is None else began_s
        self._starting = True
        self._stream_watch = StreamMonitor()
        self._recoveries = RecoveryEvents()
        self._weights: WeightsReport | None = None
        self.steps_done = first_step
        self.attempts = 0
        self.last_failure: AttemptFailure | None = None
        self._begin(first_step)

    @property
    def mlflow_run_id(self) -> str:
        """Id of the MLflow run."""
        return self._tracker.run_id

    def log_machines(self, hosts: int, workers: int) -> None:
        """Log the machines of the run as tags."""
        self._tracker.tags(system_tags(hosts, workers, Path.cwd()))

    def log_messages(self, messages: Iterable[Message]) -> None:
        """Log messages of workers and controller in order of arrival."""
        for message in messages:
            match message:
                case StepRecord():
                    self._log_record(message)
                case AttemptStart():
                    self.attempts = message.number
                    self._recoveries.add_start(message)
                case AttemptFailure():
                    self._log_attempt_failure(message)
                case WeightsReport():
                    self._log_weights(message)
                case str():
                    self._display.log(message)

    def log_measured(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Log metrics of a step that were measured after it.

        Args:
            step: the step.
            metrics: by name.
            seconds: how long that took.
        """
        self._measured.add(step, metrics)
        self._tracker.measured(self._measured.lines[-1:])
        self._display.log(f"step {step + 1} is measured, in {seconds:.1f} s")

    def log_failure(self, failure: FailureReport) -> None:
        """Log why the run failed, as a tag."""
        self._tracker.tags({TAG: tag(failure)})

    def close(self, status: str, stopped_by: str = "") -> None:
        """End the run; a finished run's model goes to MLflow.

        Args:
            status: FINISHED, FAILED or KILLED.
            stopped_by: the budget that stopped it; empty when none did.
        """
        ended = datetime.now(UTC)
        self._plan.run.write(replace(self._file, status=status, ended=ended.isoformat(timespec="milliseconds")))
        self._tracker.tags({"stopped_by": stopped_by} | cost_tags(self._costs().spent()))
        if status == "FINISHED":
            self._tracker.copy(self._plan.run.model, "model")
        if self._tracker.spilled_steps:
            self._catch_up()
        unsent = self._tracker.finish(status, round(ended.timestamp() * 1000))
        if unsent is not None:
            self._log_unsent(unsent)

    def abandon(self) -> None:
        """Stop logging and leave the run to the driver that took it over."""
        self._tracker.abandon()

    def _begin(self, first_step: int) -> None:
        recipe = recipe_yaml(self._plan.resolved)
        self._plan.run.recipe.write(recipe.encode())
        self._plan.run.write(self._file)
        self._tracker.text(recipe, "recipe.yaml")
        self._tracker.tags(event_tags(self._events.events))
        self._tracker.measured(self._measured.lines)
        try:
            for line in read_metric_log(self._plan.run.metrics):
                self._metrics.of(line)
        except MetricLogError as error:
            self._display.log(f"{error} Until then goodput is too low.")
        self._catch_up(first_step)

    def _catch_up(self, stop: int | None = None) -> None:
        """Have the tracker send what MLflow lacks, in its own thread, which therefore needs its own `StepMetrics`."""
        metrics = self._new_step_metrics(SkippedCounts(self._skipped.values()))
        self._tracker.catch_up(self._plan.run.metrics, metrics.of_all, stop)

    def _new_step_metrics(self, counts: SkippedCounts) -> StepMetrics:
        return StepMetrics(self._file.created, self._plan.recipe.batch.samples, counts, self._costs)

    def _log_unsent(self, unsent: Unsent) -> None:
        """Write steps that MLflow did not receive into the run's metric log, and tell the user how to send them."""
        log = MetricLog(self._plan.run.metrics, by_driver=True)
        for line in unsent.lines:
            log.add(line)
        log.flush()
        lacking = ([f"{len(unsent.lines)} steps"] if unsent.lines else []) + list(unsent.others)
        command = command_line("sync", self._plan.run.root.uri, endpoint=self._plan.run.root.endpoint)
        self._display.log(
            f"MLflow did not answer until the end of the run; it lacks {', '.join(lacking)}. Nothing is lost: "
            f"`{command}` brings them there when it is back."
        )

    def _log_record(self, record: StepRecord) -> None:
        self._log_skipped(record.skipped)
        if record.seconds:
            self._log_step(record)
            busy_s = step_seconds(record.seconds)
            if event := self._recoveries.add_step(record.step, record.time_ms / 1000, busy_s):
                self.log_event(event)

    def _log_weights(self, report: WeightsReport) -> None:
        """Log what the model starts from, once: the names of all tensors as a file, a summary as tags."""
        if report == self._weights:
            return
        self._weights = report
        summaries = {part.key: str(part) for part in report.parts}
        for summary in summaries.values():
            self._display.log(summary)
        self._tracker.tags({f"weights/{key}": text[:TAG_CHARACTERS] for key, text in summaries.items()})
        content = json.dumps([asdict(part) for part in report.parts], indent=1)
        self._plan.run.weights.write(content.encode())
        self._tracker.text(content, self._plan.run.weights.name)

    def _log_attempt_failure(self, failure: AttemptFailure) -> None:
        self.last_failure = failure
        self._recoveries.add_failure(failure)
        if failure.given_up is None:
            diagnosis = failure.diagnosis
            self._display.log(f"{diagnosis.kind}: {diagnosis.error.splitlines()[0]}; new workers start")

    def log_event(self, event: Event) -> None:
        """Log a recovery, a preemption or a resize."""
        self._events.add(event)
        self._tracker.tags(event_tags(self._events.events))
        self._display.log(
            f"{event.kind}: on with {event.workers} workers at step {event.step}, {event.lost_steps} steps done again, "
            f"{event.downtime_s:.0f} s without a step"
        )

    def _log_step(self, record: StepRecord) -> None:
        self.steps_done = record.step + 1
        seconds = dict(record.seconds)
        if self._starting:
            seconds["startup"] = perf_counter() - self._began_s - sum(seconds.values())
            self._starting = False
        points = self._metrics.of(replace(record, seconds=seconds).line())
        self._tracker.step(points)
        self._display.step(replace(record, metrics=points.values), len(self._skipped))
        if message := self._stream_watch.step(record.metrics, step_seconds(seconds)):
            self._display.log(message)

    def _log_skipped(self, skipped: Iterable[SkippedSample]) -> None:
        new = {skip.position: skip for skip in skipped if skip.position not in self._skipped}
        if new:
            self._skipped |= new
            for skip in new.values():
                self._counts.add(skip)
            write_quarantine(self._plan.run.quarantine, (skip for _, skip in sorted(self._skipped.items())))


class SkippedCounts:
    """Counts the samples that were skipped before a position of the run's order, by reason."""

    def __init__(self, skipped: Iterable[SkippedSample] = ()) -> None:
        self._positions: dict[str, list[int]] = defaultdict(list)
        for skip in skipped:
            self.add(skip)

    def add(self, skip: SkippedSample) -> None:
        """Count a sample; call it once per sample."""
        insort(self._positions[skip.reason], skip.position)

    def before(self, position: int) -> dict[str, int]:
        """Return the counts of samples before a position, without reasons that have none."""
        counts = {reason: bisect_left(positions, position) for reason, positions in self._positions.items()}
        return {reason: count for reason, count in sorted(counts.items()) if count}


class StepMetrics:
    """Derives the metrics of steps, live and from the metric log alike; steps must come in the order they were done.

    Args:
        created: when the run was first started, as ISO 8601.
        samples_per_step: the recipe's batch.
        skipped: the run's skipped samples; may grow.
        costs: returns the run's costs so far.
    """

    def __init__(
        self, created: str, samples_per_step: int, skipped: SkippedCounts, costs: Callable[[], Costs] = Costs
    ) -> None:
        self._start_s = datetime.fromisoformat(created).timestamp()
        self._samples_per_step = samples_per_step
        self._skipped = skipped
        self._costs = costs
        self._times = StepTimes()

    def of(self, line: StepLine) -> Points:
        """Return the metrics of a step."""
        busy_s = step_seconds(line.seconds)
        self._times.enter(line.step, busy_s)
        skipped = self._skipped.before((line.step + 1) * self._samples_per_step)
        values = {
            **line.metrics,
            "samples_per_s": line.samples / max(busy_s, 1e-9),
            "data_wait_share": line.seconds.get("data_wait", 0.0) / max(busy_s, 1e-9),
            "goodput": self.spent(line.time_ms / 1000).goodput,
            "skipped_samples": float(sum(skipped.values())),
            **{f"skipped/{reason.replace(' ', '_')}": float(count) for reason, count in skipped.items()},
            **{f"seconds/{part}": value for part, value in line.seconds.items()},
            **self._costs().metrics(line.time_ms),
        }
        return Points(line, values)

    def of_all(self, lines: Iterable[StepLine]) -> Iterator[Points]:
        """Yield the metrics of steps."""
        return map(self.of, lines)

    def spent(self, now_s: float) -> TimeSpent:
        """Return how the run's time was spent.

        Args:
            now_s: the time in seconds since 1970.
        """
        return self._times.spent(now_s - self._start_s)


FOLDER_TAG = "run_folder"
"""MLflow's tag for the URI of the run's folder."""


def new_tracker(plan: Plan, tags: Mapping[str, str], log: Callable[[str], None]) -> Tracker:
    """Start a run in MLflow.

    Args:
        plan: of the run.
        tags: further tags of the run.
        log: is passed messages for the user.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses.
    """
    tracking, tags = plan.recipe.tracking, {FOLDER_TAG: plan.run.root.uri, **tags}
    return Tracker.start(tracking.uri, tracking.experiment, plan.recipe.name, tags, log, tracking.artifacts)


def resumed_tracker(plan: Plan, previous: RunFile, tags: Mapping[str, str], log: Callable[[str], None]) -> Tracker:
    """Resume a run in MLflow where the recipe says that it is; an MLflow that lacks it gets it as a new run.

    Args:
        plan: of the run.
        previous: what its last start wrote.
        tags: further tags of a new run.
        log: is passed messages for the user.

    Raises:
        TrackingError: MLflow cannot be reached, refuses, lacks the run, or has it in another experiment.
    """
    tracking, run_id = plan.recipe.tracking, previous.mlflow_run_id
    if not is_same_place(previous.tracking_uri, tracking.uri, Path.cwd()):
        experiment = experiment_of_run(tracking.uri, run_id)
        if experiment is None:
            tracker = new_tracker(plan, tags, log)
            log(
                f"tracking.uri has changed: the run is {tracker.run_id} in {tracking.uri} from now on, which gets "
                f"its earlier steps, too; {run_id} in {previous.tracking_uri} stays as it is"
            )
            return tracker
        _refuse_other_experiment(plan, experiment)
    tracker = Tracker.resume(tracking.uri, run_id, log)
    renamed = {RUN_NAME_TAG: plan.recipe.name} if plan.recipe.name != previous.name else {}
    tracker.tags({FOLDER_TAG: plan.run.root.uri, **renamed})
    return tracker


def _refuse_other_experiment(plan: Plan, experiment: str) -> None:
    """Refuse a recipe that says otherwise where a run is that MLflow has already."""
    tracking = plan.recipe.tracking
    artifacts = value_at(plan.run.recipe_values(), ("tracking", "artifacts"))
    for key, before, now in (
        ("tracking.experiment", experiment, tracking.experiment),
        ("tracking.artifacts", artifacts, tracking.artifacts),
    ):
        if not is_same_place(before, now, Path.cwd()):
            raise TrackingError(
                f"{plan.run.root.uri}: {key} cannot change when a run is resumed: the run is in {tracking.uri} "
                f"already, with {before!r}, not {now!r}. Undo that, or start another run with name=OTHER."
            )
