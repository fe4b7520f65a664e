"""Diagnoses a failed attempt: what kind of failure it was, which workers caused it, and whether a retry can help. Pure.

When one worker fails the others fail too: their connections break, or they wait until a timeout. So every worker's
error is ranked by how strong its evidence is, and the strongest one explains the attempt. `classify` makes the error
reports.
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


class RetryBudget(StrEnum):
    """The budget that a retry is charged to; none when it would only fail again."""

    NONE = "none"
    MACHINE_FAULTS = "machine faults"
    PREEMPTIONS = "preemptions"


class Evidence(IntEnum):
    """How strongly an error indicates why an attempt failed, the weakest first.

    `AMBIGUOUS` is for errors of types that broken connections raise as well, so a process that died explains more;
    `OWN_FAULT` is for those that no other process can cause. `NAMED` errors name their cause. A preemption beats all,
    as with Ray: a fault in the code recurs without one.
    """

    CONNECTION_LOST = 0
    WAITED = 1
    AMBIGUOUS = 2
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
"""Kinds that need not recur; a fresh process may find enough GPU memory, since its memory is not fragmented."""


@dataclass(frozen=True, slots=True)
class Classification:
    """What kind of failure one error indicates.

    Args:
        kind: what happened.
        evidence: how strongly it explains the attempt.
        transient: whether this error may pass by itself although its kind in general does not.
    """

    kind: FailureKind
    evidence: Evidence
    transient: bool = False

    @property
    def budget(self) -> RetryBudget:
        """The budget that a retry is charged to."""
        if self.kind is FailureKind.PREEMPTED:
            return RetryBudget.PREEMPTIONS
        return RetryBudget.MACHINE_FAULTS if self.transient or self.kind in MACHINE_FAULTS else RetryBudget.NONE


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """One error of an attempt.

    Args:
        classification: what kind of failure it indicates.
        text: the error in words, without secrets.
        ranks: the workers that raised it, or whose end it reports.
        missing_ranks: the workers that those waited for until the timeout, if it names them.
        host: the machine; empty when unknown.
        held_out: URI of the held-out samples on which an evaluation failed; empty when it was none.
    """

    classification: Classification
    text: str
    ranks: tuple[int, ...] = ()
    missing_ranks: tuple[int, ...] = ()
    host: str = ""
    held_out: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an attempt failed.

    Args:
        kind: what happened.
        budget: what a retry is charged to.
        error: the error that explains it, in words, without secrets.
        ranks: the workers that caused it; empty when unknown.
        hosts: the machines where it happened, as far as known.
        held_out: URI of the held-out samples on which an evaluation failed; empty when it was none.
    """

    kind: FailureKind
    budget: RetryBudget
    error: str
    ranks: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()
    held_out: str = ""

    @property
    def is_retryable(self) -> bool:
        """Whether a retry can end otherwise."""
        return self.budget is not RetryBudget.NONE


def diagnose(reports: Sequence[ErrorReport], workers: int | None = None) -> Diagnosis:
    """Return what explains all errors of an attempt.

    Args:
        reports: at least one; of equally strong ones the first counts, and those classified alike count with it.
        workers: how many there were, when known: if some waited until the timeout, the others are the cause.
    """
    strongest = max(reports, key=lambda report: report.classification.evidence)
    classification = strongest.classification
    alike = [report for report in reports if report.classification == classification]
    about_others = classification.evidence <= Evidence.WAITED
    return Diagnosis(
        kind=classification.kind,
        budget=classification.budget,
        error=strongest.text,
        ranks=tuple(sorted(_causing_ranks(alike, workers))),
        hosts=() if about_others else tuple(dict.fromkeys(report.host for report in alike if report.host)),
        held_out=strongest.held_out,
    )


def _causing_ranks(alike: Sequence[ErrorReport], workers: int | None) -> set[int]:
    ranks = {rank for report in alike for rank in report.ranks}
    match alike[0].classification.evidence:
        case Evidence.CONNECTION_LOST:
            return set()
        case Evidence.WAITED:
            return {rank for report in alike for rank in report.missing_ranks} or set(range(workers or 0)) - ranks
        case _:
            return ranks


class BadDataError(FuserayError):
    """The share of bad samples exceeds stream.max_bad_share."""


class EvaluationError(FuserayError):
    """An evaluation while training failed.

    Args:
        message: what failed, with the location of the held-out samples.
        held_out: URI of these samples.
        classification: of the error that it failed with.
    """

    def __init__(self, message: str, held_out: str, classification: Classification) -> None:
        super().__init__(message)
        self.held_out = held_out
        self.classification = classification

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.held_out, self.classification)


class NotANumberError(FuserayError):
    """The loss or a gradient is non-finite."""


class WorkersDrainedError(FuserayError):
    """Workers saved and exited because their nodes go away or the worker group is resized; the run continues."""
