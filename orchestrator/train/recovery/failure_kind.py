"""What kind of failure ended an attempt, whose it was, and whether another attempt can help. Pure.

When one worker fails the others fail too: their connections break, or they wait in vain. So every worker's error is
weighed by what it can be evidence of, and the weightiest one explains the attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from orchestrator.config.errors import FuserayError


class FailureKind(StrEnum):
    """What happened."""

    USER_ERROR = "user error"
    BAD_DATA = "bad data"
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_GPU_MEMORY = "out of GPU memory"
    GPU_FAULT = "GPU fault"
    WORKER_LOST = "worker lost"
    NODE_LOST = "node lost"
    PREEMPTED = "preempted"
    HUNG = "hung"
    NOT_A_NUMBER = "not a number"
    STORAGE = "storage"
    NO_START = "could not start"
    UNKNOWN = "unknown"


class Budget(StrEnum):
    """What another attempt is charged to; nothing when it would only fail again."""

    NONE = "none"
    MACHINE_FAULTS = "machine faults"
    PREEMPTIONS = "preemptions"


class Evidence(IntEnum):
    """How much an error says about why an attempt failed, the least first.

    `SAID` is for errors of types that broken connections raise as well, so a process that died explains more;
    `OWN_FAULT` is for those that no other process can cause. `NAMED` errors name their cause. A preemption beats all,
    as with Ray: a fault in the code comes again without one.
    """

    CONNECTION_LOST = 0
    WAITED = 1
    SAID = 2
    DIED = 3
    OWN_FAULT = 4
    NAMED = 5
    PREEMPTED = 6


MACHINE_FAULTS = frozenset(
    {
        FailureKind.OUT_OF_MEMORY,
        FailureKind.OUT_OF_GPU_MEMORY,
        FailureKind.GPU_FAULT,
        FailureKind.WORKER_LOST,
        FailureKind.NODE_LOST,
        FailureKind.HUNG,
    }
)
"""Kinds that need not come again; a fresh process may find enough GPU memory, since it has it in one piece."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one error is.

    Args:
        kind: what happened.
        evidence: how much it explains.
        passing: whether it may pass by itself, for kinds of which that cannot be said in general.
    """

    kind: FailureKind
    evidence: Evidence
    passing: bool = False

    @property
    def budget(self) -> Budget:
        """What another attempt is charged to."""
        if self.kind is FailureKind.PREEMPTED:
            return Budget.PREEMPTIONS
        return Budget.MACHINE_FAULTS if self.passing or self.kind in MACHINE_FAULTS else Budget.NONE


@dataclass(frozen=True, slots=True)
class Witness:
    """One error of an attempt.

    Args:
        verdict: what it is.
        text: the error in words, without secrets.
        ranks: the workers that it comes from, or whose end it is about.
        awaited: the workers that those waited for in vain, if it says so.
        host: where that was; empty when unknown.
    """

    verdict: Verdict
    text: str
    ranks: tuple[int, ...] = ()
    awaited: tuple[int, ...] = ()
    host: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an attempt failed.

    Args:
        kind: what happened.
        budget: what another attempt is charged to.
        error: the error that explains it, in words, without secrets.
        ranks: the workers to blame; empty when nobody is known to be.
        hosts: the machines where it happened, as far as known.
    """

    kind: FailureKind
    budget: Budget
    error: str
    ranks: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt can end otherwise."""
        return self.budget is not Budget.NONE


def diagnose(witnesses: Sequence[Witness], workers: int | None = None) -> Diagnosis:
    """Return what explains all errors of an attempt.

    Args:
        witnesses: at least one; of equally weighty ones the first counts, and those of its kind share the blame.
        workers: how many there were, when known: if some waited in vain, the others are to blame.
    """
    first = max(witnesses, key=lambda witness: witness.verdict.evidence)
    alike = [witness for witness in witnesses if witness.verdict == first.verdict]
    about_others = first.verdict.evidence <= Evidence.WAITED
    return Diagnosis(
        kind=first.verdict.kind,
        budget=first.verdict.budget,
        error=first.text,
        ranks=tuple(sorted(_blamed(alike, workers))),
        hosts=() if about_others else tuple(dict.fromkeys(witness.host for witness in alike if witness.host)),
    )


def _blamed(alike: Sequence[Witness], workers: int | None) -> set[int]:
    ranks = {rank for witness in alike for rank in witness.ranks}
    match alike[0].verdict.evidence:
        case Evidence.CONNECTION_LOST:
            return set()
        case Evidence.WAITED:
            return {rank for witness in alike for rank in witness.awaited} or set(range(workers or 0)) - ranks
        case _:
            return ranks


# Errors of the training loop that say themselves what kind of failure they are.


class BadDataError(FuserayError):
    """Too large a share of the samples is bad."""


class NotANumberError(FuserayError):
    """The loss or a gradient is infinite or not a number."""


class LeftError(FuserayError):
    """Workers saved and made room, for their machines go away or more workers are to come; the run goes on."""
