"""Whether a run tries again after its workers failed: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.config.recipe import RecoverySection
from orchestrator.track.metric_log import Event
from orchestrator.train.recovery.failure_kind import Budget, Diagnosis, FailureKind
from orchestrator.train.recovery.failure_report import Tries


@dataclass(frozen=True, slots=True)
class Spent:
    """What recoveries have used up so far.

    Args:
        machine_faults: attempts that ended with one.
        preemptions: attempts that ended with one.
        without_progress: machine faults in a row without a further step being done.
    """

    machine_faults: int = 0
    preemptions: int = 0
    without_progress: int = 0

    @property
    def attempts(self) -> int:
        """Attempts so far, the present one included."""
        return 1 + self.machine_faults + self.preemptions


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Start new workers.

    Args:
        spent: what is used up now.
    """

    spent: Spent


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The run failed for good.

    Args:
        tries: how often it was tried, and which budget ran out.
    """

    tries: Tries


def decide(diagnosis: Diagnosis, progressed: bool, spent: Spent, allowed: RecoverySection) -> TryAgain | GiveUp:
    """Return what to do about a failed attempt.

    Faults of the code or the data would only come again. Machine faults and preemptions have a budget each. A machine
    fault that comes again and again before a single step is done is taken for a fault of the code.

    Args:
        diagnosis: why it failed.
        progressed: whether it did a step that no attempt before it had done.
        spent: what was used up before.
        allowed: the budgets.
    """
    match diagnosis.budget:
        case Budget.NONE:
            return GiveUp(Tries(spent.attempts))
        case Budget.PREEMPTIONS:
            if allowed.preemptions is not None and spent.preemptions >= allowed.preemptions:
                return GiveUp(Tries(spent.attempts, "recovery.preemptions", allowed.preemptions))
            return TryAgain(replace(spent, preemptions=spent.preemptions + 1, without_progress=0))
    in_a_row = 1 if progressed else spent.without_progress + 1
    if in_a_row >= allowed.without_progress:
        return GiveUp(Tries(spent.attempts, "recovery.without_progress", allowed.without_progress - 1))
    if spent.machine_faults >= allowed.machine_faults:
        return GiveUp(Tries(spent.attempts, "recovery.machine_faults", allowed.machine_faults))
    return TryAgain(replace(spent, machine_faults=spent.machine_faults + 1, without_progress=in_a_row))


# From what is reported of attempts and steps to the events of a run: how many steps were lost, and how much time.


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
