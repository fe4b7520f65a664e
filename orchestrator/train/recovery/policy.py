"""Whether workers that failed are started again, and the events that a recovery leaves behind. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.config.recipe import RecoverySection
from orchestrator.track.metric_log import Event
from orchestrator.train.recovery.diagnosis import Diagnosis, FailureKind, RetryBudget


@dataclass(frozen=True, slots=True)
class RetryCounts:
    """How many retries a run has used.

    Args:
        machine_faults: attempts that ended with a machine fault.
        preemptions: attempts that ended with a preemption.
        without_progress: machine faults in a row without a new step in between.
    """

    machine_faults: int = 0
    preemptions: int = 0
    without_progress: int = 0

    @property
    def attempts(self) -> int:
        """Attempts so far, the present one included."""
        return 1 + self.machine_faults + self.preemptions


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The run is not tried again.

    Args:
        attempts: how many there were, the last one included.
        budget: recipe key of the budget that ran out; empty when no budget was involved.
        allowed: retries that this budget allows.
    """

    attempts: int
    budget: str = ""
    allowed: int = 0


def decide_retry(
    diagnosis: Diagnosis, progressed: bool, used: RetryCounts, allowed: RecoverySection
) -> RetryCounts | GiveUp:
    """Return the new counts when the workers are started again, else why they are not.

    Faults of the code or the data would only recur. Machine faults and preemptions have a budget each. A machine fault
    that recurs before a single new step is done is taken for a fault of the code.

    Args:
        diagnosis: why the attempt failed.
        progressed: whether it did a step that no earlier attempt had done.
        used: the retries used before.
        allowed: the recipe's budgets.
    """
    match diagnosis.budget:
        case RetryBudget.NONE:
            return GiveUp(used.attempts)
        case RetryBudget.PREEMPTIONS:
            if allowed.preemptions is not None and used.preemptions >= allowed.preemptions:
                return GiveUp(used.attempts, "recovery.preemptions", allowed.preemptions)
            return replace(used, preemptions=used.preemptions + 1, without_progress=0)
    in_a_row = 1 if progressed else used.without_progress + 1
    if in_a_row >= allowed.without_progress:
        return GiveUp(used.attempts, "recovery.without_progress", allowed.without_progress - 1)
    if used.machine_faults >= allowed.machine_faults:
        return GiveUp(used.attempts, "recovery.machine_faults", allowed.machine_faults)
    return replace(used, machine_faults=used.machine_faults + 1, without_progress=in_a_row)


EventKind = Literal["recovery", "preemption", "resize"]


@dataclass(frozen=True, slots=True)
class AttemptStart:
    """Workers have started.

    Args:
        number: 1 for the first workers of a driver.
        first_step: the first step that they run.
        workers: how many there are.
    """

    number: int
    first_step: int
    workers: int


@dataclass(frozen=True, slots=True)
class AttemptFailure:
    """Workers have failed, or left as they were asked to.

    Args:
        diagnosis: why.
        next_step: the first step that they had not done; None when they had not begun.
        given_up: set when the run is not tried again.
    """

    diagnosis: Diagnosis
    next_step: int | None
    given_up: GiveUp | None = None


class RecoveryEvents:
    """Derives a run's events from its attempts and steps: how many steps were lost, and how much time."""

    def __init__(self) -> None:
        self._failure: AttemptFailure | None = None
        self._workers = 0
        self._next_step = 0
        self._open: tuple[EventKind, str, AttemptStart, int] | None = None
        self._last_step_s: float | None = None

    def add_failure(self, failure: AttemptFailure) -> None:
        """Add a failed attempt; of several before the next step the first one is the reason."""
        self._failure = self._failure or failure

    def add_start(self, start: AttemptStart) -> None:
        """Add the start of workers."""
        if start.number > 1:
            kind, reason = _kind_and_reason(self._failure, self._workers, start.workers)
            self._open = (kind, reason, start, max(0, self._next_step - start.first_step))
        self._workers = start.workers

    def add_step(self, step: int, time_s: float, busy_s: float) -> Event | None:
        """Add a step that is done; return the event that it ends, if any.

        Args:
            step: the step.
            time_s: when it was done, in seconds since 1970.
            busy_s: how long it took.
        """
        event = None
        if self._open is not None:
            kind, reason, start, lost = self._open
            before_s = self._last_step_s if self._last_step_s is not None else time_s - busy_s
            event = Event(kind, step, reason, lost, max(0.0, time_s - busy_s - before_s), start.workers)
            self._open = self._failure = None
        self._next_step, self._last_step_s = step + 1, time_s
        return event


def _kind_and_reason(failure: AttemptFailure | None, before: int, after: int) -> tuple[EventKind, str]:
    if failure is None:
        return "resize", f"{before} -> {after} workers"
    diagnosis = failure.diagnosis
    kind: EventKind = "preemption" if diagnosis.kind is FailureKind.PREEMPTED else "recovery"
    return kind, f"{diagnosis.kind}: {diagnosis.error.splitlines()[0]}"
