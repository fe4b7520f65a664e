"""The loop that polls a source and drains the node once there is a notice."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.preemption.cloud import NoSourceError, check_source, open_source
from orchestrator.cluster.preemption.drain import DrainError, Target, draining_here, short
from orchestrator.cluster.preemption.drain_process import drain
from orchestrator.cluster.preemption.notices import Notice, NoticeSource, SourceError, now_ms

if TYPE_CHECKING:
    import ray


# What a watcher does next: pure functions of what it has seen and done.


LONGEST_PAUSE_S = 10.0
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a watcher is.

    Args:
        notice: the notice that stands.
        drained: the notice with which the node was drained.
        drain_failures: attempts to drain in a row that failed.
        poll_failures: polls in a row that failed.
    """

    notice: Notice | None = None
    drained: Notice | None = None
    drain_failures: int = 0
    poll_failures: int = 0


@dataclass(frozen=True, slots=True)
class Watch:
    """There is nothing to do yet."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Drain the node.

    Args:
        notice: why, and until when.
    """

    notice: Notice


@dataclass(frozen=True, slots=True)
class Finish:
    """The node is drained, and Ray knows until when."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The deadline passed before the node could be drained."""


Decision = Watch | Drain | Finish | GiveUp


def decide(progress: Progress, now_ms: int) -> Decision:
    """Decide what follows.

    A node is drained once; a second time only when the first notice had no deadline and a later one has. At least one
    attempt is made, however late it is.
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
    """Return how long to wait before the next poll: longer when the source, shorter when Ray did not answer."""
    if progress.drain_failures:
        return float(min(interval_s, LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(progress.drain_failures - 1, 10)))
    grown_s = interval_s * 2 ** min(max(progress.poll_failures - 1, 0), 10)
    return float(min(grown_s, max(interval_s, LONGEST_PAUSE_S)))


# The loop that polls a source and drains the node once there is a notice.


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
        log: takes one line per event.
        interval_s: pause between polls; the source's own when None.
        clock: time.
    """

    source: NoticeSource
    drain: Callable[[Notice], str]
    log: Callable[[str], None]
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
                self.log(f"warning: {error} It is asked again until it answers.")
            self._progress = replace(before, poll_failures=before.poll_failures + 1)
            return
        if before.poll_failures:
            self.log(f"{self.source.name} answers again after {before.poll_failures} failed polls")
        if notice is not None and notice != before.notice:
            self.log(f"notice: {notice.describe(self.clock.now_ms())}")
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
            self.log(self.drain(notice))
        except DrainError as error:
            if str(error) != self._last_fault:
                self.log(f"warning: {error} It is tried again until the deadline.")
            self._last_fault = str(error)
            self._progress = replace(self._progress, drain_failures=self._progress.drain_failures + 1)
            return
        self._progress = replace(self._progress, drained=notice, drain_failures=0)


# Watchers as Ray actors: one on each node that matters, for as long as the run that started them.


KEPT_LINES = 3
"""Of what a watcher said in its time, these last ones are told."""


class NodeWatcher:
    """Watches the node it runs on; becomes a Ray actor."""

    def watch(self, word: str, interval_s: float | None, early: bool) -> str:
        """Watch until the node is drained; return in one line how it ended."""
        import ray

        context = ray.get_runtime_context()
        target = Target(context.gcs_address, context.get_node_id())
        said: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            Watcher(open_source(word, early), partial(drain, target), said.append, interval_s).run()
        except (NoSourceError, DrainError) as error:
            said.append(f"warning: {error}")
        return f"on node {short(context.get_node_id())}: {'; '.join(said)}"


@dataclass(slots=True)
class _Running:
    actor: Any
    outcome: ray.ObjectRef[str] | None


@dataclass(slots=True)
class Watchers:
    """Watchers on nodes of the cluster that this process is connected to.

    The actors need no CPU and go with the driver. A drained node's goes once it has said so, since a draining node
    leaves the cluster when nothing runs on it; only the driver's node keeps its own, or the driver would go with it.
    Ray's autoscaler takes no node for idle that an actor is on, so only nodes are watched that work anyway.

    Args:
        source: `auto`, `aws`, `gcp` or `file:PATH`, seen from every node.
        interval_s: seconds between polls; the source's own when None.
        early: take recommendations and announcements without a deadline for notices, too.

    Raises:
        ConfigError: there is no such source.
    """

    source: str
    interval_s: float | None = None
    early: bool = False
    _running: dict[str, _Running] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        check_source(self.source)

    def start(self) -> None:
        """Start a watcher on every node; Ray must be connected."""
        self.refresh()

    def refresh(self, nodes: Collection[str] | None = None) -> tuple[str, ...]:
        """Watch these nodes and no others, and return a line for each watcher that has ended.

        Quick enough to be called every few seconds.

        Args:
            nodes: by id; those that are not alive do not count. None: all nodes.
        """
        alive, draining = _nodes()
        watched = alive if nodes is None else alive.intersection(nodes)
        for node_id in self._running.keys() - watched:
            self._stop_on(node_id)
        for node_id in watched - draining - self._running.keys():
            self._running[node_id] = self._start_on(node_id)
        return tuple(line for node_id in tuple(self._running) if (line := self._ended(node_id)))

    def stop(self) -> None:
        """Stop all watchers. Nodes that drain go on draining."""
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

        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        actor: Any = ray.remote(NodeWatcher).options(num_cpus=0, scheduling_strategy=here).remote()
        return _Running(actor, actor.watch.remote(self.source, self.interval_s, self.early))

    def _ended(self, node_id: str) -> str | None:
        """Return how a node's watcher ended, once; one that died is started again by the next refresh."""
        import ray

        outcome = self._running[node_id].outcome
        if outcome is None or not ray.wait([outcome], timeout=0)[0]:
            return None
        try:
            line: str = ray.get(outcome)
        except ray.exceptions.RayError as error:
            del self._running[node_id]
            return f"warning: node {short(node_id)}: its watcher died ({type(error).__name__}); another starts"
        kept = self._running[node_id].actor if node_id == ray.get_runtime_context().get_node_id() else None
        self._running[node_id] = _Running(kept, None)
        return line


def start_watchers(source: str, interval_s: float | None = None, early: bool = False) -> Watchers:
    """Start a watcher for preemption notices on every node of the connected cluster.

    Call `refresh()` of the result now and then for nodes that join later, and `stop()` at the end.

    Raises:
        ConfigError: there is no such source.
    """
    watchers = Watchers(source, interval_s, early)
    watchers.start()
    return watchers


def _nodes() -> tuple[set[str], set[str]]:
    """Return the ids of the nodes that are alive, and of those that drain, on which no actor can be started."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}, set(draining_here())
