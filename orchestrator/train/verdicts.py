"""What one error is, by its type and, where types say too little, by its words. Pure.

Knows the errors of Ray (`ray.exceptions`, and Ray Train's own), of torch and of this project. Words are looked at only
in errors of the types that broken connections and full devices raise: a `ValueError` that mentions a peer is a
`ValueError`.
"""

from __future__ import annotations

import errno
import re
from dataclasses import replace

import torch
from ray import exceptions as of_ray
from ray.train.v2._internal import exceptions as of_train
from torch import distributed

from orchestrator.config.errors import FuserayError, SpecError
from orchestrator.storage.retry import PATIENCE, StorageError
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.loader import StreamEndedError
from orchestrator.train.errors import BadDataError, LeftError, NotANumberError
from orchestrator.train.failure_kind import Evidence, FailureKind, Verdict
from workloads.contract import WorkloadError

OURS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (BadDataError, FailureKind.BAD_DATA),
    (DataSetError, FailureKind.BAD_DATA),
    (NotANumberError, FailureKind.NOT_A_NUMBER),
    (StorageError, FailureKind.STORAGE),
    (SpecError, FailureKind.NO_START),
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
