"""The loop that polls a source and drains the node once there is a notice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from orchestrator.cluster.preemption.decision import Drain, Finish, GiveUp, Progress, decide, pause_s
from orchestrator.cluster.preemption.node import DrainError
from orchestrator.cluster.preemption.notice import Notice, NoticeSource, SourceError, now_ms


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, as a watcher knows it.

    Args:
        now_ms: milliseconds since 1970 in UTC.
        sleep: waits some seconds.
    """

    now_ms: Callable[[], int] = now_ms
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class Watcher:
    """Watches one machine.

    Args:
        source: where notices come from.
        drain: drains the machine's node and says in one line what it did; raises `DrainError`.
        say: takes one line per event.
        interval_s: pause between polls; the source's own when None.
        clock: time.
    """

    source: NoticeSource
    drain: Callable[[Notice], str]
    say: Callable[[str], None]
    interval_s: float | None = None
    clock: Clock = field(default_factory=Clock)
    _progress: Progress = field(default_factory=Progress, init=False)
    _last_fault: str = field(default="", init=False)

    def run(self) -> None:
        """Watch until the node is drained with a deadline. After a notice without one, one with one may follow.

        Raises:
            DrainError: the deadline passed before the node could be drained.
        """
        while True:
            self._poll()
            if self._act():
                return
            self.clock.sleep(pause_s(self._progress, self.interval_s or self.source.interval_s))

    def _poll(self) -> None:
        """Take the notice that stands; a source that does not answer is reported once, and its last word holds."""
        before = self._progress
        try:
            notice = self.source.poll()
        except SourceError as error:
            if before.poll_failures == 0:
                self.say(f"warning: {error} It is asked again until it answers.")
            self._progress = replace(before, poll_failures=before.poll_failures + 1)
            return
        if before.poll_failures:
            self.say(f"{self.source.name} answers again after {before.poll_failures} failed polls")
        if notice is not None and notice != before.notice:
            self.say(f"notice: {notice.describe(self.clock.now_ms())}")
        self._progress = replace(before, notice=notice, poll_failures=0)

    def _act(self) -> bool:
        """Do what is due; return whether that was all there is to do."""
        decision = decide(self._progress, self.clock.now_ms())
        if isinstance(decision, Drain):
            self._drain(decision.notice)
            decision = decide(self._progress, self.clock.now_ms())
        if isinstance(decision, GiveUp):
            raise DrainError(f"the deadline passed before the node could be drained: {self._last_fault}")
        return isinstance(decision, Finish)

    def _drain(self, notice: Notice) -> None:
        """Drain the node; why it fails is said when it is news."""
        try:
            self.say(self.drain(notice))
        except DrainError as error:
            if str(error) != self._last_fault:
                self.say(f"warning: {error} It is tried again until the deadline.")
            self._last_fault = str(error)
            self._progress = replace(self._progress, drain_failures=self._progress.drain_failures + 1)
            return
        self._progress = replace(self._progress, drained=notice, drain_failures=0)
