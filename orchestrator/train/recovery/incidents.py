"""From what is reported of attempts and steps to the events of a run: how many steps were lost, and how much time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.track.metric_log import Event
from orchestrator.train.failure_kind import Diagnosis, FailureKind
from orchestrator.train.post_mortem import Tries

EventKind = Literal["recovery", "preemption", "resize"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Workers have started.

    Args:
        number: 1 for the first workers of a driver.
        first_step: where they begin.
        workers: how many there are.
    """

    number: int
    first_step: int
    workers: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Workers have failed, or were asked to leave.

    Args:
        diagnosis: why.
        next_step: the first step that they had not done; None when they had not begun.
        given_up: how often the run was tried, when it is not tried again.
    """

    diagnosis: Diagnosis
    next_step: int | None
    given_up: Tries | None = None


class Incidents:
    """Puts together what happened between the last step before a fault and the first one after it."""

    def __init__(self) -> None:
        self._fault: Fault | None = None
        self._workers = 0
        self._reached = 0
        self._open: tuple[EventKind, str, Attempt, int] | None = None
        self._last_step_s: float | None = None

    def fault(self, fault: Fault) -> None:
        """Enter a fault; of several before the next step the first one tells why."""
        self._fault = self._fault or fault

    def attempt(self, attempt: Attempt) -> None:
        """Enter the start of workers."""
        if attempt.number > 1:
            kind, reason = _cause(self._fault, self._workers, attempt.workers)
            self._open = (kind, reason, attempt, max(0, self._reached - attempt.first_step))
        self._workers = attempt.workers

    def step(self, step: int, time_s: float, busy_s: float) -> Event | None:
        """Enter a step that is done; return the event that it ends, if any.

        Args:
            step: the step.
            time_s: when it was done, in seconds since 1970.
            busy_s: how long it took.
        """
        event = None
        if self._open is not None:
            kind, reason, attempt, lost = self._open
            before_s = self._last_step_s if self._last_step_s is not None else time_s - busy_s
            event = Event(kind, step, reason, lost, max(0.0, time_s - busy_s - before_s), attempt.workers)
            self._open = self._fault = None
        self._reached, self._last_step_s = step + 1, time_s
        return event


def _cause(fault: Fault | None, before: int, after: int) -> tuple[EventKind, str]:
    if fault is None:
        return "resize", f"{before} -> {after} workers"
    found = fault.diagnosis
    kind: EventKind = "preemption" if found.kind is FailureKind.PREEMPTED else "recovery"
    return kind, f"{found.kind}: {found.error.splitlines()[0]}"
