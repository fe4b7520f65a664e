"""The books of a run: every record goes to MLflow, the quarantine file, the run's file and the display."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from time import perf_counter

from orchestrator.storage.run_folder import RunFile
from orchestrator.stream.micro_batch import Skipped, parse_quarantine
from orchestrator.track.tracker import Tracker
from orchestrator.train.channel import Record
from orchestrator.train.display import Display
from orchestrator.train.plan import Plan
from orchestrator.train.recipe_file import recipe_yaml
from orchestrator.train.stream_watch import StreamWatch

FLUSH_S = 2.0


class Books:
    """Keeps the books of one attempt.

    Args:
        plan: what is being done.
        file: what the run remembers.
        tracker: its MLflow run.
        display: shows progress.
        first_step: where this attempt starts.
    """

    def __init__(self, plan: Plan, file: RunFile, tracker: Tracker, display: Display, first_step: int) -> None:
        self._plan = plan
        self._file = file
        self._tracker = tracker
        self._display = display
        self._skipped: dict[int, Skipped] = {skip.position: skip for skip in _read_quarantine(plan)}
        self._began = perf_counter()
        self._starting = True
        self._flushed = perf_counter()
        self._stream_watch = StreamWatch()
        self.steps_done = first_step
        recipe = recipe_yaml(plan.resolved)
        plan.run.recipe.write(recipe.encode())
        tracker.text(recipe, "recipe.yaml")
        plan.run.write(file)

    @property
    def mlflow_run_id(self) -> str:
        """The MLflow run."""
        return self._tracker.run_id

    def enter(self, records: Iterable[Record]) -> None:
        """Enter records in order of arrival."""
        for record in records:
            self._enter_skipped(record.skipped)
            for note in record.notes:
                self._display.message(note)
            if record.seconds:
                self._enter_step(record)
        if perf_counter() - self._flushed > FLUSH_S:
            self._tracker.flush()
            self._flushed = perf_counter()

    def close(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; a finished run's model goes to MLflow."""
        self._plan.run.write(replace(self._file, status=status))
        if status == "FINISHED":
            self._tracker.copy(self._plan.run.model, "model")
        self._tracker.finish(status)

    def skipped_reasons(self) -> Counter[str]:
        """Return how many samples were skipped for each reason."""
        return Counter(skip.reason for skip in self._skipped.values())

    def _skipped_metrics(self) -> dict[str, float]:
        return {f"skipped/{reason.replace(' ', '_')}": float(n) for reason, n in self.skipped_reasons().items()}

    def _epochs(self, step: int) -> dict[str, float]:
        """Return the epochs of each data set of a mixture, numbered as in the recipe."""
        if len(self._plan.data.sets) == 1:
            return {}
        recipe = self._plan.recipe
        epochs = self._plan.data.epochs_of_sets((step + 1) * recipe.batch.samples, recipe.seed)
        return {f"epochs/data_set_{number}": value for number, value in enumerate(epochs)}

    def _enter_step(self, record: Record) -> None:
        self.steps_done = record.step + 1
        seconds = dict(record.seconds)
        total = sum(seconds.values())
        if self._starting:
            seconds["startup"] = perf_counter() - self._began - total
            self._starting = False
        times = {f"seconds/{part}": value for part, value in seconds.items()}
        busy = total - seconds.get("evaluation", 0.0) - seconds.get("checkpoint", 0.0)
        rates = {
            "samples_per_s": record.samples / max(busy, 1e-9),
            "data_wait_share": seconds.get("data_wait", 0.0) / max(busy, 1e-9),
            "skipped_samples": float(len(self._skipped)),
            "samples": float(record.samples),
            **self._skipped_metrics(),
            **self._epochs(record.step),
        }
        self._tracker.metrics(record.step, {**record.metrics, **rates, **times})
        self._display.step(replace(record, metrics={**record.metrics, **rates}), len(self._skipped))
        if found := self._stream_watch.step(record.metrics, busy):
            self._display.message(found)

    def _enter_skipped(self, skipped: Iterable[Skipped]) -> None:
        new = [skip for skip in skipped if skip.position not in self._skipped]
        if new:
            self._skipped |= {skip.position: skip for skip in new}
            lines = [json.dumps(asdict(skip)) for _, skip in sorted(self._skipped.items())]
            self._plan.run.quarantine.write(("\n".join(lines) + "\n").encode())


def _read_quarantine(plan: Plan) -> list[Skipped]:
    if plan.run.quarantine.size() is None:
        return []
    return list(parse_quarantine(plan.run.quarantine.read()))
