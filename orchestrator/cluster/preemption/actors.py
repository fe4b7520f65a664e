"""Watchers as Ray actors: one on each node that matters, for as long as the run that started them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.preemption.drain import draining_here
from orchestrator.cluster.preemption.drain_process import drain
from orchestrator.cluster.preemption.node import DrainError, Target, short
from orchestrator.cluster.preemption.sources import NoSourceError, check_source, open_source
from orchestrator.cluster.preemption.watcher import Watcher

if TYPE_CHECKING:
    import ray

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
        SpecError: there is no such source.
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
        SpecError: there is no such source.
    """
    watchers = Watchers(source, interval_s, early)
    watchers.start()
    return watchers


def _nodes() -> tuple[set[str], set[str]]:
    """Return the ids of the nodes that are alive, and of those that drain, on which no actor can be started."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}, set(draining_here())
