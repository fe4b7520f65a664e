"""A run's own logs of metrics and events in its folder, of which MLflow has a copy."""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

from orchestrator.config.errors import FuserayError
from orchestrator.storage.jsonl_log import decode_jsonl, encode_jsonl
from orchestrator.storage.location import Location
from orchestrator.storage.retry import without_secrets

FILE_NAME = re.compile(r"steps-(\d+)-to-(\d+)(-driver)?\.jsonl")
READ_AHEAD = 8
"""Number of files read concurrently; a file holds the steps between two checkpoints."""


class MetricLogError(FuserayError):
    """A log file is damaged."""


@dataclass(frozen=True, slots=True)
class StepLine:
    """The metrics of a step.

    Args:
        step: the step.
        time_ms: when it was finished, in milliseconds since 1970.
        metrics: values by name.
        seconds: time of worker 0 per part.
        samples: usable samples of the step.
    """

    step: int
    time_ms: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    samples: int


class MetricLog:
    """Collects lines and writes them to files atomically. One writer at a time.

    A step may be logged twice: the line with the later time counts, whichever file it is in.

    Args:
        folder: where the files go.
        by_driver: whether the driver writes lines that never reached MLflow; its files do not replace the worker's.
    """

    def __init__(self, folder: Location, by_driver: bool = False) -> None:
        self._folder = folder
        self._suffix = "-driver" if by_driver else ""
        self._lines: list[StepLine] = []

    def add(self, line: StepLine) -> None:
        """Add a step's line; a second line of the last step replaces the first."""
        if self._lines and self._lines[-1].step == line.step:
            self._lines.pop()
        self._lines.append(line)

    def flush(self) -> None:
        """Write the lines added since the last flush.

        Raises:
            StorageError: it cannot be written; the lines are kept.
        """
        if not self._lines:
            return
        content = encode_jsonl(map(_plain, self._lines))
        first, last = min(line.step for line in self._lines), max(line.step for line in self._lines)
        (self._folder / f"steps-{first:08d}-to-{last:08d}{self._suffix}.jsonl").write(content)
        self._lines = []


def logged_steps(folder: Location) -> list[range]:
    """Return the ranges of steps in the log, from the names of its files alone."""
    return [steps for steps, _ in _files(folder)]


def read_metric_log(folder: Location) -> Iterator[StepLine]:
    """Yield one line per step, in the order of the steps; of a repeated step, the last line.

    Memory is bounded by the lines of a few files.

    Raises:
        MetricLogError: a file is damaged.
        StorageError: the log cannot be read.
    """
    pending: dict[int, StepLine] = {}
    for steps, lines in _read_ahead(folder):
        yield from _take_before(pending, steps.start)
        for line in lines:
            previous = pending.get(line.step)
            if previous is None or line.time_ms >= previous.time_ms:
                pending[line.step] = line
    yield from _take_before(pending, None)


def _take_before(pending: dict[int, StepLine], stop: int | None) -> Iterator[StepLine]:
    """Remove and yield the lines of steps before `stop`, which are in no later file."""
    for step in sorted(step for step in pending if stop is None or step < stop):
        yield pending.pop(step)


def _read_ahead(folder: Location) -> Iterator[tuple[range, list[StepLine]]]:
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="metric-log") as pool:
        reading: deque[tuple[range, Future[list[StepLine]]]] = deque()
        for steps, file in _files(folder):
            reading.append((steps, pool.submit(_read, file)))
            if len(reading) == READ_AHEAD:
                yield _result(reading.popleft())
        yield from map(_result, reading)


def _result(reading: tuple[range, Future[list[StepLine]]]) -> tuple[range, list[StepLine]]:
    return reading[0], reading[1].result()


def _files(folder: Location) -> list[tuple[range, Location]]:
    matches = [(FILE_NAME.fullmatch(file.name), file) for file in folder.list()]
    files = [(range(int(name[1]), int(name[2]) + 1), file) for name, file in matches if name]
    return sorted(files, key=lambda file: (file[0].start, file[0].stop))


def _read(file: Location) -> list[StepLine]:
    try:
        return [_line(values) for values in decode_jsonl(file.read())]
    except (ValueError, KeyError, TypeError) as error:
        raise MetricLogError(
            f"{file.uri}: is damaged ({error}); move it away to continue without its steps."
        ) from error


def _line(values: Mapping[str, dict[str, float]]) -> StepLine:
    metrics, seconds = ({name: float(value) for name, value in values[part].items()} for part in ("metrics", "seconds"))
    step, time_ms, samples = (int(values[part]) for part in ("step", "time_ms", "samples"))  # type: ignore[call-overload]
    return StepLine(step, time_ms, metrics, seconds, samples)


def _plain(line: StepLine) -> dict[str, object]:
    return {
        "step": line.step,
        "time_ms": line.time_ms,
        "samples": line.samples,
        "metrics": _numbers(line.metrics),
        "seconds": _numbers(line.seconds),
    }


def _numbers(values: Mapping[str, float]) -> dict[str, float | str]:
    return {name: _number(value) for name, value in values.items()}


def _number(value: float) -> float | str:
    """Return a number for JSON, non-finite ones as text."""
    return float(value) if math.isfinite(value) else str(float(value))


@dataclass(frozen=True, slots=True)
class MeasuredLine:
    """Metrics of a step that were measured after it: the step, and the values by name."""

    step: int
    metrics: Mapping[str, float]


class MeasuredLog:
    """What was measured beside the training, in a JSON-lines file that is written atomically.

    Args:
        file: the file; it may not exist yet.
    """

    def __init__(self, file: Location) -> None:
        self._file = file
        self.lines = read_measured_log(file)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append metrics of a step.

        Raises:
            StorageError: it cannot be written.
        """
        self.lines.append(MeasuredLine(step, dict(metrics)))
        plain = ({"step": line.step, "metrics": _numbers(line.metrics)} for line in self.lines)
        self._file.write(encode_jsonl(plain))


def read_measured_log(file: Location) -> list[MeasuredLine]:
    """Return the lines of a log; none when there is no file."""
    if file.size() is None:
        return []
    return [
        MeasuredLine(int(line["step"]), {name: float(value) for name, value in line["metrics"].items()})
        for line in decode_jsonl(file.read())
    ]


MAX_REASON_LENGTH = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One interruption of the training.

    Args:
        kind: what happened.
        step: the step at which training continued.
        reason: why, in a few words.
        lost_steps: steps that had to be repeated.
        downtime_s: seconds between the last step before and the first one after.
        workers: training workers afterwards.
    """

    kind: Literal["recovery", "preemption", "resize"]
    step: int
    reason: str
    lost_steps: int
    downtime_s: float
    workers: int


class EventLog:
    """The events of a run, in a JSON-lines file that is written atomically.

    Args:
        file: the file; it may not exist yet.
    """

    def __init__(self, file: Location) -> None:
        self._file = file
        self.events: list[Event] = []
        if file.size() is not None:
            self.events = [Event(**values) for values in decode_jsonl(file.read())]

    def add(self, event: Event) -> None:
        """Append an event.

        Raises:
            StorageError: it cannot be written.
        """
        self.events.append(event)
        self._file.write("".join(f"{_compact(event)}\n" for event in self.events).encode())


def event_tags(events: Sequence[Event]) -> dict[str, str]:
    """Return the MLflow tags of a run's events: one per event, numbered from 1, and totals."""
    if not events:
        return {}
    numbered = {f"event/{number:04d}": _compact(event) for number, event in enumerate(events, start=1)}
    return numbered | {
        "recoveries": str(sum(event.kind != "resize" for event in events)),
        "lost_steps": str(sum(event.lost_steps for event in events)),
        "downtime_s": f"{sum(event.downtime_s for event in events):.1f}",
    }


def _compact(event: Event) -> str:
    reason = without_secrets(event.reason)[:MAX_REASON_LENGTH]
    return json.dumps(asdict(event) | {"reason": reason}, separators=(",", ":"), ensure_ascii=False)
