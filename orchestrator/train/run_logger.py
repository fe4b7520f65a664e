"""The books of a run: every record goes to MLflow, the quarantine file, the run's file and the display."""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from orchestrator.storage.location import Location
from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.loader import StreamWatch
from orchestrator.stream.micro_batch import Skipped, parse_quarantine
from orchestrator.track.analysis import StepTimes, TimeSpent, step_seconds
from orchestrator.track.cost import Costs, cost_tags
from orchestrator.track.metric_log import (
    Event,
    EventLog,
    MetricLog,
    MetricLogError,
    StepLine,
    event_tags,
    read_metric_log,
)
from orchestrator.track.run_writer import Points
from orchestrator.track.tracker import Tracker, Unsent, system_tags
from orchestrator.train.control_channel import Display, News, Record
from orchestrator.train.plan import Plan, recipe_yaml
from orchestrator.train.recovery.failure_report import TAG, Failure, tag
from orchestrator.train.recovery.policy import Attempt, Fault, Incidents


class RunLogger:
    """Keeps the books of one attempt.

    Args:
        plan: what is being done.
        file: what the run remembers.
        tracker: its MLflow run.
        display: shows progress.
        first_step: where this attempt starts.
        costs: returns what the run has used, as far as that is known.
    """

    def __init__(
        self,
        plan: Plan,
        file: RunFile,
        tracker: Tracker,
        display: Display,
        first_step: int,
        costs: Callable[[], Costs] = Costs,
    ) -> None:
        self._plan = plan
        self._file = file
        self._tracker = tracker
        self._display = display
        self._costs = costs
        self._skipped: dict[int, Skipped] = {skip.position: skip for skip in read_quarantine(plan.run.quarantine)}
        self._counts = SkippedCounts(self._skipped.values())
        self._figures = self._new_figures(self._counts)
        self._events = EventLog(plan.run.events)
        self._began = perf_counter()
        self._starting = True
        self._stream_watch = StreamWatch()
        self._incidents = Incidents()
        self.steps_done = first_step
        self.attempts = 0
        self.last_fault: Fault | None = None
        self._open(first_step)

    @property
    def mlflow_run_id(self) -> str:
        """The MLflow run."""
        return self._tracker.run_id

    def machines(self, hosts: int, workers: int) -> None:
        """Enter what the run is done with."""
        self._tracker.tags(system_tags(hosts, workers, Path.cwd()))

    def enter(self, news: Iterable[News]) -> None:
        """Enter news in order of arrival."""
        for one in news:
            match one:
                case Record():
                    self._enter_record(one)
                case Attempt():
                    self.attempts = one.number
                    self._incidents.attempt(one)
                case Fault():
                    self._enter_fault(one)
                case str():
                    self._display.log(one)

    def failed(self, failure: Failure) -> None:
        """Enter why the run failed for good."""
        self._tracker.tags({TAG: tag(failure)})

    def close(self, status: str, stopped_by: str = "") -> None:
        """End the run; a finished run's model goes to MLflow.

        Args:
            status: FINISHED, FAILED or KILLED.
            stopped_by: why it stops before its end, when that was its budget.
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
            self._keep(unsent)

    def _open(self, first_step: int) -> None:
        recipe = recipe_yaml(self._plan.resolved)
        self._plan.run.recipe.write(recipe.encode())
        self._plan.run.write(self._file)
        self._tracker.text(recipe, "recipe.yaml")
        self._tracker.tags(event_tags(self._events.events))
        try:
            for line in read_metric_log(self._plan.run.metrics):
                self._figures.of(line)
        except MetricLogError as error:
            self._display.log(f"{error} Until then goodput is too low.")
        self._catch_up(first_step)

    def _catch_up(self, stop: int | None = None) -> None:
        """Have the tracker send what MLflow lacks; it works with figures of its own, in a thread of its own."""
        figures = self._new_figures(SkippedCounts(self._skipped.values()))
        self._tracker.catch_up(self._plan.run.metrics, figures.of_all, stop)

    def _new_figures(self, counts: SkippedCounts) -> Figures:
        return Figures(self._file.created, self._plan.recipe.batch.samples, counts, self._costs)

    def _keep(self, unsent: Unsent) -> None:
        """Write steps that MLflow did not get into the run's own log, and say how they get into MLflow."""
        log = MetricLog(self._plan.run.metrics, by_driver=True)
        for line in unsent.lines:
            log.add(line)
        log.flush()
        kept = ([f"{len(unsent.lines)} steps"] if unsent.lines else []) + list(unsent.others)
        endpoint = self._plan.recipe.storage.endpoint
        command = f"fuseray sync {self._plan.run.root.uri}" + (f" --endpoint {endpoint}" if endpoint else "")
        self._display.log(
            f"MLflow did not answer until the end of the run; it lacks {', '.join(kept)}. Nothing is lost: "
            f"`{command}` brings them there when it is back."
        )

    def _enter_record(self, record: Record) -> None:
        self._enter_skipped(record.skipped)
        if record.seconds:
            self._enter_step(record)
            busy_s = step_seconds(record.seconds)
            if event := self._incidents.step(record.step, record.time_ms / 1000, busy_s):
                self.event(event)

    def _enter_fault(self, fault: Fault) -> None:
        self.last_fault = fault
        self._incidents.fault(fault)
        if fault.given_up is None:
            found = fault.diagnosis
            self._display.log(f"{found.kind}: {found.error.splitlines()[0]}; new workers start")

    def event(self, event: Event) -> None:
        """Enter a recovery, a preemption or a change of size."""
        self._events.add(event)
        self._tracker.tags(event_tags(self._events.events))
        self._display.log(
            f"{event.kind}: on with {event.workers} workers at step {event.step}, {event.lost_steps} steps done again, "
            f"{event.downtime_s:.0f} s without a step"
        )

    def _enter_step(self, record: Record) -> None:
        self.steps_done = record.step + 1
        seconds = dict(record.seconds)
        if self._starting:
            seconds["startup"] = perf_counter() - self._began - sum(seconds.values())
            self._starting = False
        points = self._figures.of(replace(record, seconds=seconds).line())
        self._tracker.step(points)
        self._display.step(replace(record, metrics=points.values), len(self._skipped))
        if found := self._stream_watch.step(record.metrics, step_seconds(seconds)):
            self._display.log(found)

    def _enter_skipped(self, skipped: Iterable[Skipped]) -> None:
        new = {skip.position: skip for skip in skipped if skip.position not in self._skipped}
        if new:
            self._skipped |= new
            for skip in new.values():
                self._counts.add(skip)
            lines = [json.dumps(asdict(skip)) for _, skip in sorted(self._skipped.items())]
            self._plan.run.quarantine.write(("\n".join(lines) + "\n").encode())


def read_quarantine(file: Location) -> list[Skipped]:
    """Return the skipped samples of a run."""
    if file.size() is None:
        return []
    return list(parse_quarantine(file.read()))


# What is shown and tracked of a step, worked out from what was measured: the same now and from the metric log.


class SkippedCounts:
    """How many samples were skipped up to a position of the run's order, by reason."""

    def __init__(self, skipped: Iterable[Skipped] = ()) -> None:
        self._positions: dict[str, list[int]] = defaultdict(list)
        for skip in skipped:
            self.add(skip)

    def add(self, skip: Skipped) -> None:
        """Count a sample; each is to be counted once."""
        insort(self._positions[skip.reason], skip.position)

    def before(self, position: int) -> dict[str, int]:
        """Return the counts of samples before a position, of the reasons that have any."""
        counts = {reason: bisect_left(positions, position) for reason, positions in self._positions.items()}
        return {reason: count for reason, count in sorted(counts.items()) if count}


class Figures:
    """Works out the figures of steps, which are to come in the order in which they were done.

    Args:
        created: when the run was first started, as ISO 8601.
        samples_per_step: the recipe's batch.
        skipped: the run's skipped samples; may grow.
        costs: returns what the run has used, as far as that is known.
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
        """Return where the run's time went.

        Args:
            now_s: the time in seconds since 1970.
        """
        return self._times.spent(now_s - self._start_s)
