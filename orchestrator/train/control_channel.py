"""The line between the driver, Ray Train's controller and the workers: news come up, orders go down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from orchestrator.stream.micro_batch import Skipped
from orchestrator.track.metric_log import StepLine
from orchestrator.train.recovery.policy import Attempt, Fault


@dataclass(frozen=True, slots=True)
class Record:
    """What happened at a step.

    Args:
        step: the step.
        metrics: named figures.
        seconds: time of worker 0 per part.
        samples: usable samples of the step.
        skipped: bad samples that the sending worker met.
        time_ms: when the step was done, in milliseconds since 1970.
    """

    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    skipped: tuple[Skipped, ...] = ()
    time_ms: int = 0

    def line(self) -> StepLine:
        """Return what the metric log holds of it."""
        return StepLine(self.step, self.time_ms, self.metrics, self.seconds, self.samples)


News = Record | Attempt | Fault | str
"""What the driver hears, a string being a message for people."""


class Channel:
    """Runs as a Ray actor beside the driver.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._news: list[News] = []
        self._said: set[str] = set()
        self._command = WorkerCommand.CONTINUE
        self._attempts = 0
        self._next_step: int | None = None
        self._left = False
        self._alive_s = clock()
        self._worker_nodes: frozenset[str] = frozenset()

    def drain(self) -> list[News]:
        """Return the news since the last call, in order of arrival."""
        news, self._news = self._news, []
        return news

    def request(self, command: WorkerCommand) -> None:
        """Ask the workers for something; they learn of it at their next step."""
        self._command = max(self._command, command)

    def begin(self, first_step: int, workers: int) -> int:
        """Take note that worker 0 has begun; return the number of this attempt, from 1."""
        self._attempts += 1
        self._next_step = first_step
        self._alive()
        self._news.append(Attempt(self._attempts, first_step, workers))
        return self._attempts

    def publish(self, record: Record) -> WorkerCommand:
        """Take a record from a worker; return what is wanted of the workers."""
        self._news.append(record)
        if record.seconds:
            self._next_step = record.step + 1
            self._alive()
        return self._command

    def log(self, text: str) -> None:
        """Take a message for people, which may come again until there are new workers; the user hears of it once."""
        if text not in self._said:
            self._news.append(text)
        self._said.add(text)

    def leave(self) -> None:
        """Take note that the workers have saved and make room."""
        self._left = True

    def workers_started(self, nodes: Iterable[str]) -> None:
        """Take note that there are new workers on these nodes, which have not begun; only a stop is for them, too."""
        self._worker_nodes = frozenset(nodes)
        self._next_step, self._left = None, False
        self._command = WorkerCommand.STOP if self._command is WorkerCommand.STOP else WorkerCommand.CONTINUE
        self._said.clear()
        self._alive()

    def lacks_machines(self) -> None:
        """Take note that there is no room for the workers; the user hears of it once."""
        self.log("There is no room for the workers now; the run goes on as soon as there is.")

    def fault(self, fault: Fault) -> None:
        """Take note that an attempt has failed."""
        self._news.append(fault)

    def next_step(self) -> int | None:
        """Return the first step that the present workers have not done; None when they have not begun."""
        return self._next_step

    def worker_nodes(self) -> frozenset[str]:
        """Return the ids of the nodes that the newest workers were started on."""
        return self._worker_nodes

    def has_left(self) -> bool:
        """Return whether the present workers have saved and make room."""
        return self._left

    def quiet_s(self) -> float:
        """Return for how many seconds no step has been done."""
        return self._clock() - self._alive_s

    def _alive(self) -> None:
        self._alive_s = self._clock()


# What the driver's side wants of the workers, at the end of a step.


class WorkerCommand(IntEnum):
    """The later one counts when there are several."""

    CONTINUE = 0
    SAVE_AND_EXIT = 1
    """Save, then make room for workers on other machines, or for more of them."""
    STOP = 2
    """Save, then end the run."""

    @property
    def saves(self) -> bool:
        """Whether a checkpoint is due."""
        return self is not WorkerCommand.CONTINUE


# What a run needs of whoever watches it.


class RunObserver(Protocol):
    """Shows a run to whoever is watching."""

    def log(self, text: str) -> None:
        """Show a line."""
        ...

    def step(self, record: Record, skipped: int) -> None:
        """Show that a step is done; `skipped` counts the bad samples so far."""
        ...
