"""The outbox: what MLflow is to get waits here, and a thread of its own sends it. Nobody else waits for MLflow."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, TypeVar

import sqlalchemy.exc
from botocore.exceptions import BotoCoreError
from mlflow.exceptions import MlflowException

ANNOUNCED_FAILURE = 2
"""From this failure in a row on the server counts as away; a single one may be a connection that had grown old."""

LINGER_S = 2.0
"""How long the first delivery waits for others, so that steps go out in batches."""

STALLED = 10
"""An attempt that neither succeeds nor fails is waited for so many times longer than one that fails."""

LOOK_S = 0.2
LEAVE_S = 1.0


class Delivery(Protocol):
    """Something to be sent."""

    @property
    def what(self) -> str:
        """For people, as the object of a sentence."""
        ...

    def attempt(self) -> bool:
        """Send it, or a part of it; return whether that was all. May be called again after it raised."""
        ...


class Outbox:
    """Sends deliveries in their order, each until it has arrived or is refused.

    Args:
        subject: who gets them, for people.
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
        self._nudge = threading.Event()
        self._queue: deque[Delivery] = deque()
        self._in_hand: Delivery | None = None
        self._failures = 0
        self._progress_at = clock()
        self._gathered = self._hurried = self._stopping = False
        self._thread = threading.Thread(target=self._work, name="mlflow-outbox", daemon=True)
        self._thread.start()

    def put(self, delivery: Delivery) -> None:
        """Take a delivery; one that waits already is not taken twice."""
        with self._changed:
            if delivery not in self._queue:
                self._queue.append(delivery)
            self._changed.notify_all()

    def wait(self, patience_s: float) -> bool:
        """Wait until everything is sent; return False when it is not and there is no point in waiting.

        Args:
            patience_s: how long to put up with failures since this call or the last success, whichever was later.
        """
        began = self._clock()
        with self._changed:
            self._hurried = True
            self._hasten()
            while self._queue or self._in_hand is not None:
                limit_s = patience_s if self._failures else patience_s * STALLED
                if self._clock() - max(began, self._progress_at) >= limit_s:
                    break
                self._changed.wait(LOOK_S)
            self._hurried = False
            return not self._queue and self._in_hand is None

    def unsent(self) -> list[Delivery]:
        """Return what has not arrived for certain, in order."""
        with self._changed:
            return [*([self._in_hand] if self._in_hand is not None else []), *self._queue]

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._stopping = True
            self._hasten()
        self._thread.join(LEAVE_S)

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
            if not self._gathered:
                self._changed.wait_for(lambda: self._hurried or self._stopping, self._linger_s)
                self._gathered = True
            self._in_hand = None if self._stopping else self._queue.popleft()
            return self._in_hand

    def _succeeded(self, delivery: Delivery, done: bool) -> None:
        if self._failures >= ANNOUNCED_FAILURE:
            self._log(f"{self._subject} is back; what was kept for it is being sent.")
        self._put_down(None if done else delivery, failures=0)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        decision = decide(error, self._failures + 1)
        if isinstance(decision, LeaveOut):
            self._log(f"{self._subject} does not get {delivery.what}: {self._explain(error)}")
            self._succeeded(delivery, done=True)
            return
        self._put_down(delivery, failures=self._failures + 1)
        if self._failures == ANNOUNCED_FAILURE:
            self._log(
                f"{self._subject} does not answer ({self._explain(error)}). Training goes on; "
                "what is to be logged is kept and sent when it is back."
            )
        self._pause(decision.after_s)

    def _put_down(self, delivery: Delivery | None, failures: int) -> None:
        with self._changed:
            if delivery is not None:
                self._queue.appendleft(delivery)
            if failures == 0:
                self._progress_at = self._clock()
            self._in_hand, self._failures, self._gathered = None, failures, bool(self._queue)
            self._changed.notify_all()

    def _hasten(self) -> None:
        self._nudge.set()
        self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        self._nudge.wait(seconds)
        self._nudge.clear()


# What follows when MLflow did not take something: another try later, or none.


FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
REFUSALS = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
"""MLflow's codes that speak of what was sent. Access that is denied is not among them: it may be given again."""

TOO_LARGE = "error code 413"
PASSING_STATUS = {401, 403, 407, 408, 425, 429}
"""Of the HTTP statuses 4xx, those that speak of the moment and the door rather than of what was sent."""

MAY_PASS = (OSError, BotoCoreError, sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError)


@dataclass(frozen=True, slots=True)
class Again:
    """Try again.

    Args:
        after_s: how long to wait before that.
    """

    after_s: float


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """Do not try again: it would be refused again."""


def decide(error: Exception, attempt: int) -> Again | LeaveOut:
    """Decide what follows a failed attempt.

    Args:
        error: what the client raised.
        attempt: how many attempts have failed in a row, at least 1.

    Returns:
        A wait that doubles with every attempt up to `LONGEST_PAUSE_S`, or the end.
    """
    if is_refusal(error):
        return LeaveOut()
    return Again(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt - 1, 16)))


def is_refusal(error: BaseException) -> bool:
    """Return whether MLflow or its artifact store would refuse the same thing again, rather than being away."""
    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS or TOO_LARGE in str(error)
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in PASSING_STATUS
    return not isinstance(error, MAY_PASS)


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status that an artifact store answered with; boto3 hides it in the error behind its own."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# Sending many things at once, and apart from each other when some of them are refused.


NAMES_SHOWN = 5

Item = TypeVar("Item")


class RejectedKeys:
    """What MLflow refuses for good: told once, counted ever after.

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
        """How many values were left out so far."""
        return sum(self._counts.values())

    @property
    def names(self) -> list[str]:
        """Their names."""
        return sorted({name for _, name in self._counts})

    def leave_out(self, kind: str, name: str, values: int) -> bool:
        """Return whether a name of a kind is refused; if so, count values that are not sent."""
        if (kind, name) in self._counts:
            self._counts[kind, name] += values
        return (kind, name) in self._counts

    def add(self, kind: str, refused: Mapping[str, tuple[Exception, int]]) -> None:
        """Remember names that were refused and tell of them, those with one reason together.

        Args:
            kind: what they name, in the plural.
            refused: by name, the reason and how many values were not sent.
        """
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, (error, values) in refused.items():
            self._counts[kind, name] = values
            reasons[self._explain(error)].append(name)
        for reason, names in reasons.items():
            self._log(f"MLflow refuses the {kind} {_listed(names)}, which are left out: {reason}")


def send_batch_or_split(
    groups: Mapping[str, Sequence[Item]], send: Callable[[list[Item]], object], refusals: RejectedKeys, kind: str
) -> None:
    """Send all groups at once or, when that is refused, one by one; a group that is refused alone is left out.

    Args:
        groups: what to send, by name; sent in this order.
        send: sends some of it; may be called again with the same.
        refusals: remembers what was refused.
        kind: what the names name, in the plural.

    Raises:
        Exception: what `send` raises when MLflow is away.
    """
    try:
        send(list(chain.from_iterable(groups.values())))
    except Exception as error:
        if not is_refusal(error):
            raise
        refused = {name: (fault, len(items)) for name, items in groups.items() if (fault := _fault(items, send))}
        refusals.add(kind, refused)


def _fault(items: Sequence[Item], send: Callable[[list[Item]], object]) -> Exception | None:
    try:
        send(list(items))
    except Exception as error:
        if not is_refusal(error):
            raise
        return error
    return None


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
