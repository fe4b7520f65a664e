"""The control channel between the driver, Ray Train's controller and the workers; the stop flag of a sweep's trials.

Workers and controller send messages up to the driver; commands go down to the workers. `ControlChannelClient` in
`worker.py` is a worker's end of it; `Assignment` is what a worker is passed when it starts. Imports neither Ray nor
torch, since the command line uses `StepRecord`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.stream.micro_batch import SkippedSample
from orchestrator.track.metric_log import StepLine
from orchestrator.train.recovery.policy import AttemptFailure, AttemptStart
from workloads.contract import InitialWeights

if TYPE_CHECKING:
    from orchestrator.stream.loader import PrefetchedSegment
    from orchestrator.train.plan import Plan


@dataclass(frozen=True)
class Assignment:
    """What the driver passes to every worker.

    Args:
        plan: the plan.
        mlflow_run_id: where the run is tracked.
        channel: the control channel, an actor of class `Channel`.
        prefetched: the stream's first segment, split for the first workers if they begin at the driver's step.
    """

    plan: Plan
    mlflow_run_id: str
    channel: Any
    prefetched: PrefetchedSegment | None = None


class WorkerCommand(IntEnum):
    """Commands from the driver to the workers, by increasing priority: the highest one received wins."""

    CONTINUE = 0
    SAVE_AND_EXIT = 1
    """Save, then exit so that workers on other nodes, or more of them, can start."""
    STOP = 2
    """Save, then end the run."""

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is due."""
        return self is not WorkerCommand.CONTINUE


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a worker reports of a step.

    Args:
        step: the step.
        metrics: by name.
        seconds: time of worker 0 per part.
        samples: usable samples of the step.
        skipped: bad samples that the sending worker met.
        time_ms: when the step was done, in milliseconds since 1970.
    """

    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    skipped: tuple[SkippedSample, ...] = ()
    time_ms: int = 0

    def line(self) -> StepLine:
        """Return the step's line of the metric log."""
        return StepLine(self.step, self.time_ms, self.metrics, self.seconds, self.samples)


@dataclass(frozen=True, slots=True)
class WeightsReport:
    """What the parts of the model start from, as the workers loaded them."""

    parts: tuple[InitialWeights, ...]


Message = StepRecord | AttemptStart | AttemptFailure | WeightsReport | str
"""A message to the driver; a string is for the user."""


class Channel:
    """The channel itself; runs as a Ray actor on the driver's node.

    Args:
        clock: monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._messages: list[Message] = []
        self._logged: set[str] = set()
        self._command = WorkerCommand.CONTINUE
        self._attempts = 0
        self._next_step: int | None = None
        self._drained = False
        self._progress_s = clock()
        self._worker_nodes: frozenset[str] = frozenset()

    def take_messages(self) -> list[Message]:
        """Return the messages since the last call, in order of arrival."""
        messages, self._messages = self._messages, []
        return messages

    def request(self, command: WorkerCommand) -> None:
        """Send the workers a command; they receive it at their next step."""
        self._command = max(self._command, command)

    def begin(self, first_step: int, workers: int) -> int:
        """Report that worker 0 begins; return the number of this attempt, from 1."""
        self._attempts += 1
        self._next_step = first_step
        self._progressed()
        self._messages.append(AttemptStart(self._attempts, first_step, workers))
        return self._attempts

    def publish(self, record: StepRecord) -> WorkerCommand:
        """Report a step; return the current command to the workers."""
        self._messages.append(record)
        if record.seconds:
            self._next_step = record.step + 1
            self._progressed()
        return self._command

    def log(self, text: str) -> None:
        """Report a message for the user; repetitions by the same worker group are dropped."""
        if text not in self._logged:
            self._messages.append(text)
        self._logged.add(text)

    def report_weights(self, parts: Sequence[InitialWeights]) -> None:
        """Report what the model starts from."""
        self._messages.append(WeightsReport(tuple(parts)))

    def report_drained(self) -> None:
        """Report that the workers have saved and exit."""
        self._drained = True

    def workers_started(self, nodes: Iterable[str]) -> None:
        """Reset for a new worker group on these nodes. A pending STOP is kept; other commands are dropped."""
        self._worker_nodes = frozenset(nodes)
        self._next_step, self._drained = None, False
        self._command = WorkerCommand.STOP if self._command is WorkerCommand.STOP else WorkerCommand.CONTINUE
        self._logged.clear()
        self._progressed()

    def report_no_room(self) -> None:
        """Report that the workers cannot be placed; logged once."""
        self.log("There is no room for the workers now; the run continues as soon as there is.")

    def attempt_failed(self, failure: AttemptFailure) -> None:
        """Report a failed attempt."""
        self._messages.append(failure)

    def next_step(self) -> int | None:
        """Return the first step that the present workers have not done; None when they have not begun."""
        return self._next_step

    def worker_nodes(self) -> frozenset[str]:
        """Return the ids of the nodes that the newest workers were started on."""
        return self._worker_nodes

    def are_drained(self) -> bool:
        """Return whether the present workers have saved and exit."""
        return self._drained

    def stalled_s(self) -> float:
        """Return for how many seconds no step has been done."""
        return self._clock() - self._progress_s

    def _progressed(self) -> None:
        self._progress_s = self._clock()


class RunObserver(Protocol):
    """Shows a run to its user."""

    def log(self, text: str) -> None:
        """Show a line."""
        ...

    def step(self, record: StepRecord, skipped: int) -> None:
        """Show that a step is done; `skipped` counts the bad samples so far."""
        ...


class StopSignal:
    """A one-shot stop flag, held by an actor on the sweep driver's node."""

    def __init__(self) -> None:
        self._reason = ""

    def set(self, reason: str) -> None:
        """Stop all trials, with a checkpoint."""
        self._reason = reason

    def reason(self) -> str:
        """Return why the trials have to stop; empty while they may continue."""
        return self._reason
