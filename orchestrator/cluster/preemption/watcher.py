"""Watches for preemption notices: polls a source, and drains the node when there is a notice. Its decisions are pure.

A `Watcher` watches one machine; `Watchers` runs one on each node of a run, as Ray actors that end with
the run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.preemption.cloud import NoSourceError, check_source_name, open_notice_source
from orchestrator.cluster.preemption.drain import DrainError, DrainTarget, draining_here, short_id
from orchestrator.cluster.preemption.drain_process import drain
from orchestrator.cluster.preemption.notices import Notice, NoticeSource, SourceError
from orchestrator.storage.timing import exponential_delay_s, now_ms

if TYPE_CHECKING:
    import ray


LONGEST_PAUSE_S = 10.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a watcher.

    Args:
        notice: the current notice.
        drained: the notice with which the node was drained.
        drain_failures: number of consecutive failed attempts to drain.
        poll_failures: number of consecutive failed polls.
    """

    notice: Notice | None = None
    drained: Notice | None = None
    drain_failures: int = 0
    poll_failures: int = 0


@dataclass(frozen=True, slots=True)
class Watch:
    """Continue polling."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Drain the node.

    Args:
        notice: has the reason and the deadline.
    """

    notice: Notice


@dataclass(frozen=True, slots=True)
class Finish:
    """The node is drained, and Ray has the deadline."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The deadline passed before the node could be drained."""


Decision = Watch | Drain | Finish | GiveUp


def decide(progress: Progress, now_ms: int) -> Decision:
    """Return the next step.

    A node is drained once; a second time only if the first notice had no deadline and a later one has. At least one
    attempt is made, even after the deadline.
    """
    notice, drained = progress.notice, progress.drained
    if drained is not None and drained.deadline_ms is not None:
        return Finish()
    if notice is None or (drained is not None and notice.deadline_ms is None):
        return Watch()
    if progress.drain_failures and notice.deadline_ms is not None and now_ms >= notice.deadline_ms:
        return GiveUp()
    return Drain(notice)


def pause_s(progress: Progress, interval_s: float) -> float:
    """Return the time until the next poll: longer after failures of the source, shorter after failures to drain."""
    if progress.drain_failures:
        return exponential_delay_s(progress.drain_failures, FIRST_RETRY_S, min(interval_s, LONGEST_RETRY_S))
    return exponential_delay_s(max(progress.poll_failures, 1), interval_s, max(interval_s, LONGEST_PAUSE_S))


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a watcher.

    Args:
        now_ms: milliseconds since 1970 in UTC.
        sleep: waits so many seconds.
    """

    now_ms: Callable[[], int] = now_ms
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class Watcher:
    """Watches one machine.

    Args:
        source: the source of notices.
        drain: drains the machine's node and returns a line that says what was done; raises `DrainError`.
        log: takes one line per event.
        interval_s: seconds between polls; the source's default when None.
        clock: the clock.
    """

    source: NoticeSource
    drain: Callable[[Notice], str]
    log: Callable[[str], None]
    interval_s: float | None = None
    clock: Clock = field(default_factory=Clock)
    _progress: Progress = field(default_factory=Progress, init=False)
    _last_error: str = field(default="", init=False)

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
        """Poll the source; a source that does not answer is logged once, and its last notice stays current."""
        before = self._progress
        try:
            notice = self.source.poll()
        except SourceError as error:
            if before.poll_failures == 0:
                self.log(f"warning: {error} It is asked again until it answers.")
            self._progress = replace(before, poll_failures=before.poll_failures + 1)
            return
        if before.poll_failures:
            self.log(f"{self.source.name} answers again after {before.poll_failures} failed polls")
        if notice is not None and notice != before.notice:
            self.log(f"notice: {notice.describe(self.clock.now_ms())}")
        self._progress = replace(before, notice=notice, poll_failures=0)

    def _act(self) -> bool:
        """Take the next step; return whether the watcher is done."""
        decision = decide(self._progress, self.clock.now_ms())
        if isinstance(decision, Drain):
            self._drain(decision.notice)
            decision = decide(self._progress, self.clock.now_ms())
        if isinstance(decision, GiveUp):
            raise DrainError(f"the deadline passed before the node could be drained: {self._last_error}")
        return isinstance(decision, Finish)

    def _drain(self, notice: Notice) -> None:
        """Drain the node; log an error unless it is the same as the last one."""
        try:
            self.log(self.drain(notice))
        except DrainError as error:
            if str(error) != self._last_error:
                self.log(f"warning: {error} It is tried again until the deadline.")
            self._last_error = str(error)
            self._progress = replace(self._progress, drain_failures=self._progress.drain_failures + 1)
            return
        self._progress = replace(self._progress, drained=notice, drain_failures=0)


KEPT_LINES = 3
"""Number of a watcher's last log lines that it returns."""


class NodeWatcher:
    """The Ray actor that watches the node it runs on."""

    def watch(self, source: str, interval_s: float | None, early: bool) -> str:
        """Watch until the node is drained; return the last log lines as one line."""
        import ray

        context = ray.get_runtime_context()
        target = DrainTarget(context.gcs_address, context.get_node_id())
        last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            Watcher(open_notice_source(source, early), partial(drain, target), last_lines.append, interval_s).run()
        except (NoSourceError, DrainError) as error:
            last_lines.append(f"warning: {error}")
        return f"on node {short_id(context.get_node_id())}: {'; '.join(last_lines)}"


@dataclass(slots=True)
class _Running:
    actor: Any
    outcome: ray.ObjectRef[str] | None


@dataclass(slots=True)
class Watchers:
    """Watchers on nodes of the cluster that this process is connected to; `refresh` starts them.

    The actors reserve no CPU and end with the driver. The actor of a drained node ends after its report, because a
    draining node leaves the cluster when nothing runs on it; only the one on the driver's node stays, or the driver
    would end with it. To Ray's autoscaler a node with an actor is not idle, so only nodes in use should be watched.

    Args:
        source: `auto`, `aws`, `gcp` or `file:PATH`, as seen from every node.
        interval_s: seconds between polls; the source's default when None.
        early: also report recommendations and announcements without a deadline as notices.

    Raises:
        ConfigError: there is no such source.
    """

    source: str
    interval_s: float | None = None
    early: bool = False
    _running: dict[str, _Running] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_source_name(self.source)

    def refresh(self, nodes: Collection[str] | None = None) -> tuple[str, ...]:
        """Watch these nodes and no others, and return a line for each watcher that has ended.

        Ray must be connected. The call is quick enough to be made every few seconds, for nodes that join later.

        Args:
            nodes: ids; those of nodes that are not alive are ignored. None for all nodes.
        """
        alive, draining = _nodes()
        watched = alive if nodes is None else alive.intersection(nodes)
        for node_id in self._running.keys() - watched:
            self._stop_on(node_id)
        for node_id in watched - draining - self._running.keys():
            self._running[node_id] = self._start_on(node_id)
        return tuple(line for node_id in tuple(self._running) if (line := self._ended(node_id)))

    def stop(self) -> None:
        """Stop all watchers; draining nodes continue to drain."""
        for node_id in tuple(self._running):
            self._stop_on(node_id)

    def _stop_on(self, node_id: str) -> None:
        import ray

        actor = self._running.pop(node_id).actor
        if actor is not None:
            ray.kill(actor)

    def _start_on(self, node_id: str) -> _Running:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
        actor: Any = ray.remote(NodeWatcher).options(num_cpus=0, scheduling_strategy=on_node).remote()
        return _Running(actor, actor.watch.remote(self.source, self.interval_s, self.early))

    def _ended(self, node_id: str) -> str | None:
        """Return a line when a node's watcher has ended, once; the next refresh restarts a watcher that died."""
        import ray

        outcome = self._running[node_id].outcome
        if outcome is None or not ray.wait([outcome], timeout=0)[0]:
            return None
        try:
            line: str = ray.get(outcome)
        except ray.exceptions.RayError as error:
            del self._running[node_id]
            return f"warning: node {short_id(node_id)}: its watcher died ({type(error).__name__}); another starts"
        is_drivers_node = node_id == ray.get_runtime_context().get_node_id()
        self._running[node_id] = _Running(self._running[node_id].actor if is_drivers_node else None, None)
        return line


def _nodes() -> tuple[set[str], set[str]]:
    """Return the ids of the alive nodes, and of the draining nodes, on which no actor can be started."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}, set(draining_here())
