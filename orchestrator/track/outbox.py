"""The outbox: a queue of deliveries to MLflow and the thread that sends them, so that training never waits for MLflow.

Transient failures are retried with exponential backoff. What MLflow rejects is dropped and counted; a batch that is
rejected is split to isolate the bad items.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Protocol, TypeVar

from orchestrator.storage.timing import exponential_delay_s
from orchestrator.track.mlflow_errors import is_deleted, is_denied, is_rejection

ANNOUNCED_FAILURE = 2
"""Consecutive failures after which the server is reported as unavailable; a single one may be a stale connection."""

LINGER_S = 2.0
"""Seconds for which the first delivery waits for others, so that steps are sent in batches."""

STALL_FACTOR = 10
"""An attempt that hangs is waited for so many times longer than one that fails."""

POLL_S = 0.2
JOIN_TIMEOUT_S = 1.0


class Delivery(Protocol):
    """Something to be sent."""

    @property
    def description(self) -> str:
        """What it is, for messages."""
        ...

    def attempt(self) -> bool:
        """Send it, or a part of it; return whether that was all. May be called again after it raised."""
        ...


class Outbox:
    """Sends deliveries in order, each until it has arrived or is rejected.

    Args:
        subject: the receiver, for messages.
        log: takes messages for the user, from the outbox's thread.
        explain: returns what an error says, without secrets.
        linger_s: how long to wait for more before sending.
        pause: waits some seconds before the next attempt; the default can be cut short by `wait` and `stop`.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        subject: str,
        log: Callable[[str], None],
        explain: Callable[[object], str] = str,
        linger_s: float = LINGER_S,
        pause: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subject, self._log, self._explain = subject, log, explain
        self._linger_s, self._pause, self._clock = linger_s, pause or self._sleep, clock
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._queue: deque[Delivery] = deque()
        self._in_flight: Delivery | None = None
        self._failures = 0
        self._progress_at = clock()
        self._lingered = self._draining = self._stopping = False
        self._thread = threading.Thread(target=self._work, name="mlflow-outbox", daemon=True)
        self._thread.start()

    def put(self, delivery: Delivery) -> None:
        """Take a delivery; one that waits already is not taken twice."""
        with self._changed:
            if delivery not in self._queue:
                self._queue.append(delivery)
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything is sent; return False when the timeout is reached first.

        Args:
            timeout_s: how long failures may last, since this call or the last success, whichever was later.
        """
        began = self._clock()
        with self._changed:
            self._draining = True
            self._wake_sender()
            while self._queue or self._in_flight is not None:
                limit_s = timeout_s if self._failures else timeout_s * STALL_FACTOR
                if self._clock() - max(began, self._progress_at) >= limit_s:
                    break
                self._changed.wait(POLL_S)
            self._draining = False
            return not self._queue and self._in_flight is None

    def unsent(self) -> list[Delivery]:
        """Return the deliveries that may not have arrived, in order."""
        with self._changed:
            return [*([self._in_flight] if self._in_flight is not None else []), *self._queue]

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._stopping = True
            self._wake_sender()
        self._thread.join(JOIN_TIMEOUT_S)

    def _work(self) -> None:
        while (delivery := self._next()) is not None:
            try:
                done = delivery.attempt()
            except Exception as error:
                self._failed(delivery, error)
            else:
                self._succeeded(delivery, done)

    def _next(self) -> Delivery | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            if not self._lingered:
                self._changed.wait_for(lambda: self._draining or self._stopping, self._linger_s)
                self._lingered = True
            self._in_flight = None if self._stopping else self._queue.popleft()
            return self._in_flight

    def _succeeded(self, delivery: Delivery, done: bool) -> None:
        if self._failures >= ANNOUNCED_FAILURE:
            self._log(f"{self._subject} is back; what was kept for it is being sent.")
        self._finish_attempt(None if done else delivery, failures=0)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        delay_s = retry_delay_s(error, self._failures + 1)
        if delay_s is None:
            self._log(f"{self._subject} does not get {delivery.description}: {self._explain(error)}")
            self._succeeded(delivery, done=True)
            return
        self._finish_attempt(delivery, failures=self._failures + 1)
        if self._failures == ANNOUNCED_FAILURE:
            state = "takes nothing" if is_denied(error) or is_deleted(error) else "does not answer"
            self._log(
                f"{self._subject} {state} ({self._explain(error)}). Training continues; "
                "what is to be logged is kept and sent when it is back."
            )
        self._pause(delay_s)

    def _finish_attempt(self, delivery: Delivery | None, failures: int) -> None:
        with self._changed:
            if delivery is not None:
                self._queue.appendleft(delivery)
            if failures == 0:
                self._progress_at = self._clock()
            self._in_flight, self._failures, self._lingered = None, failures, bool(self._queue)
            self._changed.notify_all()

    def _wake_sender(self) -> None:
        self._wake.set()
        self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()


FIRST_DELAY_S = 0.5
MAX_DELAY_S = 30.0


def retry_delay_s(error: Exception, attempt: int) -> float | None:
    """Return how long to wait after a failed attempt, in seconds; None when the same thing would be rejected again.

    Args:
        error: what the client raised.
        attempt: number of consecutive failed attempts, at least 1.

    Returns:
        A delay that doubles with every attempt up to `MAX_DELAY_S`, or None.
    """
    if is_rejection(error):
        return None
    return exponential_delay_s(attempt, FIRST_DELAY_S, MAX_DELAY_S)


NAMES_SHOWN = 5

Item = TypeVar("Item")


class RejectedKeys:
    """Names of metrics, parameters and tags that MLflow rejects: reported once, then dropped and counted.

    Args:
        log: takes messages for the user.
        explain: returns what an error says, without secrets.
    """

    def __init__(self, log: Callable[[str], None], explain: Callable[[object], str] = str) -> None:
        self._log = log
        self._explain = explain
        self._counts: dict[tuple[str, str], int] = {}

    @property
    def count(self) -> int:
        """Number of dropped values."""
        return sum(self._counts.values())

    @property
    def names(self) -> list[str]:
        """Their names."""
        return sorted({name for _, name in self._counts})

    def skip(self, kind: str, name: str, values: int) -> bool:
        """Return whether a name is rejected; if so, count the values that are dropped."""
        if (kind, name) in self._counts:
            self._counts[kind, name] += values
        return (kind, name) in self._counts

    def add(self, kind: str, errors: Mapping[str, tuple[Exception, int]]) -> None:
        """Add rejected names and report them, grouped by reason.

        Args:
            kind: what they name, in the plural.
            errors: by name, the reason and how many values were not sent.
        """
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, (error, values) in errors.items():
            self._counts[kind, name] = values
            reasons[self._explain(error)].append(name)
        for reason, names in reasons.items():
            self._log(f"MLflow refuses the {kind} {_listed(names)}, which are left out: {reason}")


def send_batch_or_split(
    groups: Mapping[str, Sequence[Item]], send: Callable[[list[Item]], object], rejected: RejectedKeys, kind: str
) -> None:
    """Send all groups as one batch; if it is rejected, send them one by one and drop those that are rejected.

    Args:
        groups: what to send, by name; sent in this order.
        send: sends items; may be called again with the same.
        rejected: collects what was rejected.
        kind: what the names name, in the plural.

    Raises:
        Exception: what `send` raises when MLflow is away.
    """
    try:
        send(list(chain.from_iterable(groups.values())))
    except Exception as error:
        if not is_rejection(error):
            raise
        errors = {
            name: (rejection, len(items)) for name, items in groups.items() if (rejection := _rejection(items, send))
        }
        rejected.add(kind, errors)


def _rejection(items: Sequence[Item], send: Callable[[list[Item]], object]) -> Exception | None:
    try:
        send(list(items))
    except Exception as error:
        if not is_rejection(error):
            raise
        return error
    return None


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
