"""Trying a request to storage again: whether, and after how long."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import sleep
from typing import TypeVar

import pyarrow as pa

from orchestrator.storage.faults import Cause, StorageError, cause_of, explanation, without_secrets
from workloads.contract import KeyedRandom

LOG = logging.getLogger(__name__)
LOUD_ATTEMPT = 3
"""From this attempt on, trying again is worth a line in the log."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again.

    Args:
        after_s: how long to wait before that.
    """

    after_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again.

    Args:
        reason: why not.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one kind of failure is put up with.

    Args:
        attempts: tries in all.
        first_s: longest wait before the second try; it doubles with every further one.
        longest_s: no wait is longer.
    """

    attempts: int
    first_s: float
    longest_s: float


PATIENCE: Mapping[Cause, Patience] = {
    Cause.THROTTLED: Patience(attempts=10, first_s=0.5, longest_s=20),
    Cause.INTERRUPTED: Patience(attempts=8, first_s=0.1, longest_s=10),
    Cause.TIMED_OUT: Patience(attempts=4, first_s=0.2, longest_s=5),
    Cause.UNREACHABLE: Patience(attempts=4, first_s=0.2, longest_s=5),
}
"""The failures that may pass by themselves; all others are final."""


def decide(error: Exception, attempt: int, draw: KeyedRandom) -> Retry | GiveUp:
    """Decide what follows a failed attempt.

    Args:
        error: what a file system raised.
        attempt: how many attempts there have been, at least 1.
        draw: spreads the waits of those who failed together.

    Returns:
        A wait of half to all of `first_s * 2 ** (attempt - 1)` seconds, or the end.
    """
    cause = cause_of(error)
    patience = PATIENCE.get(cause)
    if patience is None:
        return GiveUp(cause.value)
    if attempt >= patience.attempts:
        return GiveUp(f"tried {attempt} times")
    longest_s = min(patience.longest_s, patience.first_s * 2 ** (attempt - 1))
    return Retry(longest_s * (0.5 + 0.5 * draw.child(attempt).numpy().random()))


def retrying(action: Callable[[], Result], uri: str, verb: str, pause: Callable[[float], None] | None = None) -> Result:
    """Run a request until it succeeds or there is no point in trying again.

    Args:
        action: may be run any number of times.
        uri: what it is about.
        verb: what it does, as in "cannot be read".
        pause: waits some seconds.

    Raises:
        StorageError: it failed for good; the message says why and what to do.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return action()
        except (OSError, pa.ArrowException) as error:
            decision = decide(error, attempt, KeyedRandom(("storage", os.getpid(), uri, verb)))
            if isinstance(decision, GiveUp):
                raise _failure(error, uri, verb, attempt) from _unless_secret(error)
            if attempt >= LOUD_ATTEMPT:
                _report(error, uri, attempt, decision)
        (pause or sleep)(decision.after_s)


def _failure(error: Exception, uri: str, verb: str, attempts: int) -> StorageError:
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    return StorageError(f"{uri}: cannot be {verb}{tries}: {explanation(error, uri)}")


def _report(error: Exception, uri: str, attempt: int, decision: Retry) -> None:
    LOG.warning(
        "%s: %s; attempt %d follows in %.1f s",
        without_secrets(uri),
        cause_of(error).value,
        attempt + 1,
        decision.after_s,
    )


def _unless_secret(error: Exception) -> Exception | None:
    """Keep an error as the cause of another only when showing it gives no secret away."""
    return error if str(error) == without_secrets(str(error)) else None
