"""From what Ray Train raises to a diagnosis: wrappers come off, and every worker's error becomes a witness. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.train.v2._internal.exceptions import (
    BroadcastCollectiveTimeoutError,
    RayTrainError,
    UserExceptionWithTraceback,
    WorkerHealthCheckFailedError,
)
from ray.train.v2.api.exceptions import ControllerError, NCCLHangError, PreemptionError, WorkerGroupError

from orchestrator.config.errors import FuserayError
from orchestrator.storage.retry import without_secrets
from orchestrator.train.failure_kind import Diagnosis, Witness, diagnose
from orchestrator.train.verdicts import NO_ANSWER, PREEMPTED, verdict_of, verdict_of_end, verdict_outside
from workloads.contract import WorkloadError

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
