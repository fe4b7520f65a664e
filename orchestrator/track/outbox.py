"""The outbox: what MLflow is to get waits here, and a thread of its own sends it. Nobody else waits for MLflow."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from orchestrator.track.faults import LeaveOut, decide

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
        tell: takes messages for the user, from the outbox's thread.
        explain: returns what an error says, without secrets.
        linger_s: how long to wait for more before sending.
        pause: waits some seconds before the next attempt; the default can be cut short by `wait` and `stop`.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        subject: str,
        tell: Callable[[str], None],
        explain: Callable[[object], str] = str,
        linger_s: float = LINGER_S,
        pause: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subject, self._tell, self._explain = subject, tell, explain
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
            self._tell(f"{self._subject} is back; what was kept for it is being sent.")
        self._put_down(None if done else delivery, failures=0)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        decision = decide(error, self._failures + 1)
        if isinstance(decision, LeaveOut):
            self._tell(f"{self._subject} does not get {delivery.what}: {self._explain(error)}")
            self._succeeded(delivery, done=True)
            return
        self._put_down(delivery, failures=self._failures + 1)
        if self._failures == ANNOUNCED_FAILURE:
            self._tell(
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
