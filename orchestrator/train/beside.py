"""Actors beside their driver."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def start_beside(cls: type) -> Any:
    """Start an actor on the driver's own machine, so that no other one can take it along; return its handle.

    Args:
        cls: made without arguments; it takes no CPU.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(cls)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()
