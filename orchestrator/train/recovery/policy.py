"""Whether a run tries again after its workers failed: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.config.recipe import RecoverySection
from orchestrator.train.failure_kind import Budget, Diagnosis
from orchestrator.train.post_mortem import Tries


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
