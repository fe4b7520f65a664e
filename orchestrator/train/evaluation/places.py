"""Where actors measure: how many there are and what each gets, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from orchestrator.config.cluster import read_node_groups
from orchestrator.config.errors import ConfigError
from orchestrator.config.recipe import ScaleSection
from orchestrator.evaluate.pool import PoolOptions
from orchestrator.stream.decoder import Node
from orchestrator.stream.ray_dataset import TASK_CPUS
from orchestrator.train.ray_session import ray_session
from orchestrator.train.resources import present_nodes

Device = Literal["auto", "gpu", "cpu"]
"""What each actor gets: a GPU if there are some, a GPU, or CPUs alone."""


@contextmanager
def actor_session(
    scale: ScaleSection, cpus: float, workers: int | None, device: Device, log: Path
) -> Iterator[PoolOptions]:
    """Run the body in a session of Ray that has room for actors.

    Args:
        scale: where Ray is.
        cpus: of each actor.
        workers: how many; None for as many as the cluster has room for.
        device: what each gets.
        log: file for Ray's messages.

    Raises:
        ConfigError: the cluster has no room for them.
        RaySessionError: Ray cannot be started, or the cluster cannot be joined.
    """
    needed = (workers or 1) * cpus + 2 * TASK_CPUS
    with ray_session(scale, max(os.cpu_count() or 1, needed), log):
        grows = scale.address != "local" and read_node_groups(os.environ) is not None
        yield place_actors(present_nodes(), cpus, workers, device, grows)


def place_actors(
    nodes: Sequence[Node], cpus: float, workers: int | None, device: Device, grows: bool = False
) -> PoolOptions:
    """Return how many actors there are, and what each gets. Pure.

    Args:
        nodes: of the cluster.
        cpus: of each actor.
        workers: how many; None for one per GPU, or per node with enough CPUs.
        device: what each gets.
        grows: whether the cluster gets further nodes when they are asked for.

    Raises:
        ConfigError: there is no room for them.
    """
    gpus = sum(node.gpus for node in nodes)
    if device == "gpu" and not gpus and not grows:
        raise ConfigError("--device gpu: the cluster has no GPU; use --device cpu, or another cluster.")
    on_gpu = device == "gpu" or (device == "auto" and gpus > 0)
    if workers is None:
        workers = int(gpus) if on_gpu else sum(node.cpus >= cpus + TASK_CPUS for node in nodes)
    workers = max(workers, 1)
    if grows:
        return PoolOptions(workers, cpus, float(on_gpu))
    if on_gpu and workers > gpus:
        raise ConfigError(f"--workers {workers}: needs {workers} GPUs; there are {gpus:g}. Lower --workers.")
    needed, there = workers * cpus + TASK_CPUS, sum(node.cpus for node in nodes)
    if needed > there:
        raise ConfigError(
            f"--workers {workers}: {workers} actors x {cpus:g} CPUs and {TASK_CPUS:g} for reading need {needed:g} "
            f"CPUs; there are {there:g}. Lower --workers or evaluation.cpus."
        )
    return PoolOptions(workers, cpus, float(on_gpu))
