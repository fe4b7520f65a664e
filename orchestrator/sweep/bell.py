"""Tells all trials of a sweep that they are to stop."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class Bell:
    """Rings once. Lives as an actor beside the sweep's driver."""

    def __init__(self) -> None:
        self._reason = ""

    def ring(self, reason: str) -> None:
        """Have all trials stop with a checkpoint."""
        self._reason = reason

    def rung(self) -> str:
        """Return why the trials are to stop; empty while they are not."""
        return self._reason


def hang_bell() -> Any:
    """Start the bell on this machine; return its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Bell)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()
