"""What one error is, by its type and, where types say too little, by its words. Pure.

Knows the errors of Ray (`ray.exceptions`, and Ray Train's own), of torch and of this project. Words are looked at only
in errors of the types that broken connections and full devices raise: a `ValueError` that mentions a peer is a
`ValueError`.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
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
from torch import distributed

from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.storage.retry import PATIENCE, StorageError, without_secrets
from orchestrator.storage.run_folder import json_bytes
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.loader import StreamEndedError
from orchestrator.stream.state import BatchKeys, step_keys
from orchestrator.train.plan import Plan
from orchestrator.train.recovery.failure_kind import (
    BadDataError,
    Diagnosis,
    Evidence,
    FailureKind,
    LeftError,
    NotANumberError,
    Verdict,
    Witness,
    diagnose,
)
from orchestrator.train.recovery.failure_report import Failure, Tries, message, record
from orchestrator.train.recovery.policy import Fault
from workloads.contract import WorkloadError

OURS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (BadDataError, FailureKind.BAD_DATA),
    (DataSetError, FailureKind.BAD_DATA),
    (NotANumberError, FailureKind.NOT_A_NUMBER),
    (StorageError, FailureKind.STORAGE),
    (ConfigError, FailureKind.NO_START),
    (FuserayError, FailureKind.USER_ERROR),
    (WorkloadError, FailureKind.USER_ERROR),
)
"""This project's errors, the special ones first; they name their cause and their fix."""

PREEMPTED = Verdict(FailureKind.PREEMPTED, Evidence.PREEMPTED)
OUT_OF_MEMORY = Verdict(FailureKind.OUT_OF_MEMORY, Evidence.NAMED)
OUT_OF_GPU_MEMORY = Verdict(FailureKind.OUT_OF_GPU_MEMORY, Evidence.NAMED)
GPU_FAULT = Verdict(FailureKind.GPU_FAULT, Evidence.NAMED)
NOT_A_NUMBER = Verdict(FailureKind.NOT_A_NUMBER, Evidence.NAMED)
DISK_FULL = Verdict(FailureKind.STORAGE, Evidence.NAMED)
TOO_SMALL = Verdict(FailureKind.NO_START, Evidence.NAMED)
START_FAILED = Verdict(FailureKind.NO_START, Evidence.NAMED, passing=True)
NO_ANSWER = Verdict(FailureKind.HUNG, Evidence.DIED)
WAITED_IN_VAIN = Verdict(FailureKind.HUNG, Evidence.WAITED)
NODE_LOST = Verdict(FailureKind.NODE_LOST, Evidence.DIED)
CONNECTION_LOST = Verdict(FailureKind.WORKER_LOST, Evidence.CONNECTION_LOST)

BY_WORDS: tuple[tuple[str, Verdict], ...] = (
    (r"running low on memory", OUT_OF_MEMORY),
    (r"(?i)\b(cuda|hip)\b.*out of memory|_STATUS_ALLOC_FAILED", OUT_OF_GPU_MEMORY),
    (r"(?i)uncorrectable|ECC error|fallen off the bus|NVLink", GPU_FAULT),
    (r"(?i)its node has died|node specified .* doesn't exist", replace(CONNECTION_LOST, kind=FailureKind.NODE_LOST)),
    (r"(?i)timed out (waiting|after)|wait timeout|collective operation timeout|socket timeout", WAITED_IN_VAIN),
    (r"(?i)by peer|connection (was )?(closed|reset|refused|aborted)|broken pipe|socket closed", CONNECTION_LOST),
    (r"(?i)pair closure|remote process|communicator was aborted|ncclRemoteError|ncclSystemError", CONNECTION_LOST),
)
"""What errors of the types below say; the first that fits holds."""

AMBIGUOUS = (RuntimeError, OSError, of_ray.RayError)
"""Types of errors whose words have to be looked at."""

BY_TYPE: tuple[tuple[type[BaseException], Verdict], ...] = (
    (of_ray.OutOfMemoryError, OUT_OF_MEMORY),
    (of_ray.ObjectStoreFullError, OUT_OF_MEMORY),
    (MemoryError, OUT_OF_MEMORY),
    (torch.OutOfMemoryError, OUT_OF_GPU_MEMORY),
    (FloatingPointError, NOT_A_NUMBER),
    (of_ray.OutOfDiskError, DISK_FULL),
    (of_train.InsufficientClusterResourcesError, TOO_SMALL),
    (of_ray.TaskUnschedulableError, TOO_SMALL),
    (of_ray.ActorUnschedulableError, TOO_SMALL),
    (of_train.WorkerGroupStartupTimeoutError, START_FAILED),
    (of_train.WorkerGroupStartupFailedError, START_FAILED),
    (of_train.WorkerHealthCheckTimeoutError, NO_ANSWER),
    (of_ray.NodeDiedError, NODE_LOST),
    (of_ray.LocalRayletDiedError, NODE_LOST),
    (of_train.CollectiveTimeoutError, WAITED_IN_VAIN),
    (distributed.DistStoreError, WAITED_IN_VAIN),
    (TimeoutError, WAITED_IN_VAIN),
    (distributed.DistNetworkError, CONNECTION_LOST),
    (of_ray.RayActorError, CONNECTION_LOST),
    (of_ray.WorkerCrashedError, CONNECTION_LOST),
    (of_ray.ObjectLostError, CONNECTION_LOST),
    (ConnectionError, CONNECTION_LOST),
    (EOFError, CONNECTION_LOST),
    (of_ray.RayError, Verdict(FailureKind.UNKNOWN, Evidence.SAID, passing=True)),
    (of_train.RayTrainError, Verdict(FailureKind.UNKNOWN, Evidence.SAID)),
)
"""Errors whose type says what they are; the first that fits holds. Ray's tasks and actors that a training function
waits for are other processes than its worker's, so their end is a lost connection to it."""


def verdict_of(error: BaseException) -> Verdict:
    """Return what an error that a worker's training function raised is; wrappers of Ray must be off."""
    if isinstance(error, LeftError):
        return PREEMPTED
    if isinstance(error, StreamEndedError):
        return CONNECTION_LOST
    for kind, named in OURS:
        if isinstance(error, kind):
            return Verdict(named, Evidence.NAMED, passing=isinstance(error, StorageError) and _may_pass(error))
    if isinstance(error, of_ray.RayActorError) and error.preempted:
        return PREEMPTED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    return _by_words(error) or _by_type(error) or _of_the_code(error)


def verdict_of_end(error: BaseException) -> Verdict:
    """Return what the end of a worker's own process is, from the error that it left behind."""
    verdict = verdict_of(error)
    return replace(verdict, evidence=max(verdict.evidence, Evidence.DIED))


def verdict_outside(error: BaseException) -> Verdict:
    """Return what an error is that no training function raised: Ray Train's controller's, or the driver's."""
    verdict = verdict_of(error)
    ours = isinstance(error, FuserayError | WorkloadError)
    return (
        replace(verdict, kind=FailureKind.UNKNOWN) if verdict.kind is FailureKind.USER_ERROR and not ours else verdict
    )


def _by_words(error: BaseException) -> Verdict | None:
    if not isinstance(error, AMBIGUOUS):
        return None
    said = str(error)
    return next((verdict for pattern, verdict in BY_WORDS if re.search(pattern, said)), None)


def _by_type(error: BaseException) -> Verdict | None:
    return next((verdict for kind, verdict in BY_TYPE if isinstance(error, kind)), None)


def _of_the_code(error: BaseException) -> Verdict:
    evidence = Evidence.SAID if isinstance(error, AMBIGUOUS) else Evidence.OWN_FAULT
    return Verdict(FailureKind.USER_ERROR, evidence)


def _may_pass(error: StorageError) -> bool:
    """Return whether the store failed in a way that was tried again in vain, but may work a minute later."""
    return any(cause.value in str(error) for cause in PATIENCE)


# From what Ray Train raises to a diagnosis: wrappers come off, and every worker's error becomes a witness. Pure.


HOSTS = (r"hostname='([^']+)'", r"node_ip='([^']+)'", r"\tip: (\S+)", r"\(IP: ([^,]+),")
"""Where Ray's messages name a machine, the most readable first."""

REASONS = ("The actor died because", "The actor is dead because")
"""How the telling line in Ray's message about a dead actor begins."""

GUESSES = "Some common causes include"
"""How Ray begins to guess why a process may have ended."""

LONGEST = 300
"""Letters of another project's error that are kept."""


def diagnose_error(error: BaseException, workers: int | None = None) -> Diagnosis:
    """Return why an attempt failed.

    Args:
        error: what `fit` raised, or what went wrong before it.
        workers: how many training workers there were, when known.
    """
    return diagnose(list(_witnesses(error)), workers)


def _witnesses(error: BaseException) -> Iterator[Witness]:
    if isinstance(error, ControllerError):
        yield from _witnesses(_unwrapped(error.controller_failure))
    elif isinstance(error, PreemptionError):
        info = error.preemption_info
        yield Witness(PREEMPTED, _text(error), tuple(info.preempted_ranks), host=", ".join(info.preempted_node_ids))
    elif isinstance(error, NCCLHangError):
        yield Witness(NO_ANSWER, _text(error))
    elif isinstance(error, WorkerGroupError) and error.worker_failures:
        for rank, failure in sorted(error.worker_failures.items()):
            yield _of_worker(rank, failure)
    else:
        inner = _unwrapped(error)
        yield Witness(verdict_outside(inner), _text(inner), host=_host(error))


def _of_worker(rank: int, failure: BaseException) -> Witness:
    ended = isinstance(failure, WorkerHealthCheckFailedError)
    error = _unwrapped(failure)
    verdict = verdict_of_end(error) if ended else verdict_of(error)
    awaited = tuple(error._missing_ranks) if isinstance(error, BroadcastCollectiveTimeoutError) else ()
    return Witness(verdict, _text(error), (rank,), awaited, _host(failure))


def _unwrapped(error: BaseException) -> BaseException:
    """Return the error inside the wrappers in which Ray carries it from process to process."""
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
    """Return an error in words: the whole message where it names its fix, else its type and what it says first."""
    if isinstance(error, FuserayError | WorkloadError):
        return without_secrets(str(error))
    lines = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    telling = (line for line in lines if line.startswith(REASONS) and isinstance(error, RayActorError))
    said = next(telling, lines[0]).partition(GUESSES)[0].rstrip()
    short = said if len(said) <= LONGEST else f"{said[:LONGEST]}…"
    return without_secrets(f"{type(error).__name__}: {short}")


def _host(error: BaseException) -> str:
    if not isinstance(error, RayError | RayTrainError):
        return ""
    found = (re.search(pattern, str(error)) for pattern in HOSTS)
    return next((match.group(1) for match in found if match), "")


# From what ended a run to what its user reads, and to what stays in its folder.


class TrainingError(FuserayError):
    """A run failed for good."""


def failure_of(error: BaseException, fault: Fault | None, plan: Plan, log: Path) -> Failure:
    """Return all that is to be said about a run that failed for good.

    Args:
        error: what ended it.
        fault: the last fault that was reported of its workers.
        plan: the run.
        log: a file that is made if need be, and gets the whole traceback.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{error}\n")
    given_up = fault if fault is not None and fault.given_up is not None else None
    step = given_up.next_step if given_up else None
    return Failure(
        diagnosis=given_up.diagnosis if given_up else diagnose_error(error, plan.recipe.scale.max_workers),
        run=plan.run.root.uri,
        log=str(log),
        step=step,
        micro_batches=() if step is None else _keys(plan, step),
        tries=(given_up.given_up if given_up else None) or Tries(1),
        checkpoint=_newest_checkpoint(plan),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def explained(failure: Failure, plan: Plan) -> TrainingError:
    """Write a failure into the run's folder and return it as an error for the terminal."""
    with suppress(StorageError):  # the message must not be lost because the store is what failed
        plan.run.post_mortem.write(json_bytes(record(failure)))
    return TrainingError(message(failure))


def _newest_checkpoint(plan: Plan) -> str:
    try:
        return next((place.uri for place in plan.run.committed_checkpoints()), "")
    except StorageError:
        return ""


def _keys(plan: Plan, step: int) -> tuple[BatchKeys, ...]:
    """Return a step's keys in brief; none when they cannot be read, since the data may be what failed."""
    try:
        return step_keys(plan.reader, step)
    except FuserayError:
        return ()
