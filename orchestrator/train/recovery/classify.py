"""Classifies errors by their type and, where types are ambiguous, by their message. Pure.

`diagnose_error` unwraps what Ray Train raises and makes one error report per worker. Knows the errors of Ray
(`ray.exceptions`, and Ray Train's own), of torch and of this project. Messages are matched only in errors of the types
that broken connections and full devices raise: a `ValueError` that mentions a peer is a `ValueError`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import replace

from ray import exceptions as of_ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train.v2._internal import exceptions as of_train
from ray.train.v2._internal.exceptions import (
    BroadcastCollectiveTimeoutError,
    RayTrainError,
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api.exceptions import ControllerError, NCCLHangError, PreemptionError, WorkerGroupError

from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.storage.retry import RETRY_LIMITS, StorageError, without_secrets
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.loader import StreamEndedError
from orchestrator.train.recovery.diagnosis import (
    BadDataError,
    Classification,
    Diagnosis,
    ErrorReport,
    EvaluationError,
    Evidence,
    FailureKind,
    NotANumberError,
    WorkersDrainedError,
    diagnose,
)
from workloads.contract import WorkloadError

ERRORS_OF_FUSERAY: tuple[tuple[type[Exception], FailureKind], ...] = (
    (BadDataError, FailureKind.BAD_DATA),
    (DataSetError, FailureKind.BAD_DATA),
    (NotANumberError, FailureKind.NOT_A_NUMBER),
    (StorageError, FailureKind.STORAGE),
    (ConfigError, FailureKind.NO_START),
    (FuserayError, FailureKind.USER_ERROR),
    (WorkloadError, FailureKind.USER_ERROR),
)
"""This project's errors, subclasses first; they name their cause and their fix."""

PREEMPTED = Classification(FailureKind.PREEMPTED, Evidence.PREEMPTED)
OUT_OF_MEMORY = Classification(FailureKind.OUT_OF_MEMORY, Evidence.NAMED)
OUT_OF_GPU_MEMORY = Classification(FailureKind.OUT_OF_GPU_MEMORY, Evidence.NAMED)
GPU_FAULT = Classification(FailureKind.GPU_FAULT, Evidence.NAMED)
NOT_A_NUMBER = Classification(FailureKind.NOT_A_NUMBER, Evidence.NAMED)
DISK_FULL = Classification(FailureKind.STORAGE, Evidence.NAMED)
CLUSTER_TOO_SMALL = Classification(FailureKind.NO_START, Evidence.NAMED)
START_FAILED = Classification(FailureKind.NO_START, Evidence.NAMED, transient=True)
UNRESPONSIVE = Classification(FailureKind.HUNG, Evidence.DIED)
TIMED_OUT = Classification(FailureKind.HUNG, Evidence.WAITED)
NODE_LOST = Classification(FailureKind.NODE_LOST, Evidence.DIED)
CONNECTION_LOST = Classification(FailureKind.WORKER_LOST, Evidence.CONNECTION_LOST)
OWN_FAULT = Classification(FailureKind.USER_ERROR, Evidence.OWN_FAULT)

FAILED_IMPORT = r"^The (actor with name \S+|remote function) failed to import on the worker"
"""The beginning of Ray's message about an actor or a task that a worker could not load; the traceback follows."""

BY_MESSAGE: tuple[tuple[str, Classification], ...] = (
    (FAILED_IMPORT, OWN_FAULT),
    (r"running low on memory", OUT_OF_MEMORY),
    (r"(?i)\b(cuda|hip)\b.*out of memory|_STATUS_ALLOC_FAILED", OUT_OF_GPU_MEMORY),
    (r"(?i)uncorrectable|ECC error|fallen off the bus|NVLink", GPU_FAULT),
    (r"(?i)its node has died|node specified .* doesn't exist", replace(CONNECTION_LOST, kind=FailureKind.NODE_LOST)),
    (r"(?i)timed out (waiting|after)|wait timeout|collective operation timeout|socket timeout", TIMED_OUT),
    (r"(?i)by peer|connection (was )?(closed|reset|refused|aborted)|broken pipe|socket closed", CONNECTION_LOST),
    (r"(?i)pair closure|remote process|communicator was aborted|ncclRemoteError|ncclSystemError", CONNECTION_LOST),
)
"""Patterns in the messages of errors of the types below; the first match counts."""

AMBIGUOUS = (RuntimeError, OSError, of_ray.RayError)
"""Types of errors whose message has to be looked at."""

BY_TYPE: tuple[tuple[type[BaseException], Classification], ...] = (
    (of_ray.OutOfMemoryError, OUT_OF_MEMORY),
    (of_ray.ObjectStoreFullError, OUT_OF_MEMORY),
    (MemoryError, OUT_OF_MEMORY),
    (FloatingPointError, NOT_A_NUMBER),
    (of_ray.OutOfDiskError, DISK_FULL),
    (of_train.InsufficientClusterResourcesError, CLUSTER_TOO_SMALL),
    (of_ray.TaskUnschedulableError, CLUSTER_TOO_SMALL),
    (of_ray.ActorUnschedulableError, CLUSTER_TOO_SMALL),
    (of_train.WorkerGroupStartupTimeoutError, START_FAILED),
    (of_train.WorkerGroupStartupFailedError, START_FAILED),
    (of_train.WorkerHealthCheckTimeoutError, UNRESPONSIVE),
    (of_ray.NodeDiedError, NODE_LOST),
    (of_ray.LocalRayletDiedError, NODE_LOST),
    (of_train.CollectiveTimeoutError, TIMED_OUT),
    (TimeoutError, TIMED_OUT),
    (of_ray.RayActorError, CONNECTION_LOST),
    (of_ray.WorkerCrashedError, CONNECTION_LOST),
    (of_ray.ObjectLostError, CONNECTION_LOST),
    (ConnectionError, CONNECTION_LOST),
    (EOFError, CONNECTION_LOST),
    (of_ray.RayError, Classification(FailureKind.UNKNOWN, Evidence.AMBIGUOUS, transient=True)),
    (of_train.RayTrainError, Classification(FailureKind.UNKNOWN, Evidence.AMBIGUOUS)),
)
"""Errors that their type classifies; the first match counts. Tasks and actors that a training function waits for run in
other processes than its worker, so their end counts as a lost connection."""

TORCH_ERRORS: dict[str, Classification] = {
    "torch.OutOfMemoryError": OUT_OF_GPU_MEMORY,
    "torch.distributed.DistStoreError": TIMED_OUT,
    "torch.distributed.DistNetworkError": CONNECTION_LOST,
}
"""Errors of torch by name: driver and controller classify them without loading torch."""


def classify(error: BaseException) -> Classification:
    """Classify an error that a worker's training function raised; it must be unwrapped."""
    if isinstance(error, WorkersDrainedError):
        return PREEMPTED
    if isinstance(error, StreamEndedError):
        return CONNECTION_LOST
    if isinstance(error, EvaluationError):
        return error.classification
    for kind, named in ERRORS_OF_FUSERAY:
        if isinstance(error, kind):
            return Classification(
                named, Evidence.NAMED, transient=isinstance(error, StorageError) and _is_transient(error)
            )
    if isinstance(error, of_ray.RayActorError) and error.preempted:
        return PREEMPTED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    return _by_message(error) or _by_type(error) or _user_error(error)


def evaluation_error(error: Exception, held_out: str) -> EvaluationError:
    """Return an error of an evaluation with the location of its samples; it is classified as the error itself.

    Args:
        error: what the evaluation raised.
        held_out: URI of the held-out samples.
    """
    message = f"evaluating on the held-out samples in {held_out} failed: {_text(error).removeprefix(f'{held_out}: ')}"
    return EvaluationError(message, held_out, classify(error))


def classify_worker_death(error: BaseException) -> Classification:
    """Classify the end of a worker's own process, by the error that Ray reports for it."""
    classification = classify(error)
    return replace(classification, evidence=max(classification.evidence, Evidence.DIED))


def classify_creation_error(error: BaseException) -> Classification:
    """Classify what an actor raised while it was made; it recurs, unless a machine or a store caused it."""
    classification = classify(error)
    return OWN_FAULT if classification.kind in (FailureKind.USER_ERROR, FailureKind.UNKNOWN) else classification


def classify_outside_workers(error: BaseException) -> Classification:
    """Classify an error that no training function raised: Ray Train's controller's, or the driver's."""
    classification = classify(error)
    if classification.kind is FailureKind.USER_ERROR and not isinstance(error, FuserayError | WorkloadError):
        return replace(classification, kind=FailureKind.UNKNOWN)
    return classification


def _by_message(error: BaseException) -> Classification | None:
    if not isinstance(error, AMBIGUOUS):
        return None
    text = str(error)
    return next((classification for pattern, classification in BY_MESSAGE if re.search(pattern, text)), None)


def _by_type(error: BaseException) -> Classification | None:
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    of_torch = next((TORCH_ERRORS[name] for name in names if name in TORCH_ERRORS), None)
    return of_torch or next((classification for kind, classification in BY_TYPE if isinstance(error, kind)), None)


def _user_error(error: BaseException) -> Classification:
    evidence = Evidence.AMBIGUOUS if isinstance(error, AMBIGUOUS) else Evidence.OWN_FAULT
    return Classification(FailureKind.USER_ERROR, evidence)


def _is_transient(error: StorageError) -> bool:
    """Return whether the store failed in a way that retries did not cure, but that may pass in a minute."""
    return any(cause.value in str(error) for cause in RETRY_LIMITS)


HOSTS = (r"hostname='([^']+)'", r"node_ip='([^']+)'", r"\tip: (\S+)", r"\(IP: ([^,]+),")
"""Patterns of a machine's name in Ray's messages, the most readable first."""

REASONS = ("The actor died because", "The actor is dead because")
"""Beginnings of the line in Ray's message about a dead actor that gives the reason."""

GUESSES = "Some common causes include"
"""Where Ray's message begins to guess why a process may have ended."""

MAX_ERROR_CHARS = 300
"""Characters of another project's error that are kept."""


def diagnose_error(error: BaseException, workers: int | None = None) -> Diagnosis:
    """Return why an attempt failed.

    Args:
        error: what `fit` raised, or what failed before it.
        workers: how many training workers there were, when known.
    """
    return diagnose(list(_error_reports(error)), workers)


def _error_reports(error: BaseException) -> Iterator[ErrorReport]:
    if isinstance(error, ControllerError):
        yield from _error_reports(_unwrapped(error.controller_failure))
    elif isinstance(error, PreemptionError):
        info = error.preemption_info
        yield ErrorReport(PREEMPTED, _text(error), tuple(info.preempted_ranks), host=", ".join(info.preempted_node_ids))
    elif isinstance(error, NCCLHangError):
        yield ErrorReport(UNRESPONSIVE, _text(error))
    elif isinstance(error, WorkerGroupError) and error.worker_failures:
        for rank, failure in sorted(error.worker_failures.items()):
            yield _worker_error_report(rank, failure)
    elif (raised := _creation_error(error)) is not None:
        yield ErrorReport(classify_creation_error(raised), _text(raised), host=_host(error))
    else:
        inner = _unwrapped(error)
        yield ErrorReport(classify_outside_workers(inner), _text(inner), host=_host(error))


def _worker_error_report(rank: int, failure: BaseException) -> ErrorReport:
    if (raised := _creation_error(failure)) is not None:
        return ErrorReport(classify_creation_error(raised), _text(raised), (rank,), host=_host(failure))
    died = isinstance(failure, WorkerHealthCheckFailedError)
    error = _unwrapped(failure)
    classification = classify_worker_death(error) if died else classify(error)
    missing = tuple(error._missing_ranks) if isinstance(error, BroadcastCollectiveTimeoutError) else ()
    held_out = error.held_out if isinstance(error, EvaluationError) else ""
    return ErrorReport(classification, _text(error), (rank,), missing, _host(failure), held_out)


def _creation_error(error: BaseException) -> BaseException | None:
    """Return what an actor raised in its constructor or when a worker loaded it; None for other errors."""
    failure: object = error.health_check_failure if isinstance(error, WorkerHealthCheckFailedError) else error
    if isinstance(failure, of_train.WorkerGroupStartupFailedError):
        failure = failure.__cause__
    if not (isinstance(failure, RayActorError) and failure.actor_init_failed):
        return None
    raised = next(iter(failure.args), None)
    return _unwrapped(raised) if isinstance(raised, BaseException) else None


def _unwrapped(error: BaseException) -> BaseException:
    """Return the error inside Ray's wrappers."""
    if isinstance(error, WorkerHealthCheckFailedError):
        inner: object = error.health_check_failure
    elif isinstance(error, UserExceptionWithTraceback):
        inner = error._base_exc
    elif isinstance(error, RayTaskError):
        inner = error.cause
    else:
        return error
    return _unwrapped(inner) if isinstance(inner, BaseException) else error


def _text(error: BaseException) -> str:
    """Return an error in words: the whole message where it names its fix, else its type and first line."""
    if isinstance(error, FuserayError | WorkloadError):
        return without_secrets(str(error))
    lines = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    if not_loaded := re.match(FAILED_IMPORT, lines[0]):
        return without_secrets(f"{lines[-1]} (when a worker imported the {not_loaded[1]})")
    reasons = (line for line in lines if line.startswith(REASONS) and isinstance(error, RayActorError))
    reason = next(reasons, lines[0]).partition(GUESSES)[0].rstrip()
    short = reason if len(reason) <= MAX_ERROR_CHARS else f"{reason[:MAX_ERROR_CHARS]}…"
    return without_secrets(f"{type(error).__name__}: {short}")


def _host(error: BaseException) -> str:
    if not isinstance(error, RayError | RayTrainError):
        return ""
    matches = (re.search(pattern, str(error)) for pattern in HOSTS)
    return next((match.group(1) for match in matches if match), "")
