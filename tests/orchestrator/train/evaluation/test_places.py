"""How many actors measure, and on what."""

from __future__ import annotations

import pytest

from orchestrator.config.errors import ConfigError
from orchestrator.evaluate.pool import PoolOptions
from orchestrator.stream.decoder import Node
from orchestrator.train.evaluation.places import Device, place_actors

CPU, GPU = Node(8, 0), Node(16, 4)


@pytest.mark.parametrize(
    ("nodes", "cpus", "workers", "device", "expected"),
    [
        ([CPU], 2, None, "auto", PoolOptions(1, 2, 0)),
        ([CPU, CPU], 2, 3, "auto", PoolOptions(3, 2, 0)),
        ([CPU, GPU], 2, None, "auto", PoolOptions(4, 2, 1)),
        ([CPU, GPU], 2, None, "cpu", PoolOptions(2, 2, 0)),
        ([GPU], 2, 2, "gpu", PoolOptions(2, 2, 1)),
    ],
)
def test_one_per_gpu_or_per_machine_unless_said_otherwise(
    nodes: list[Node], cpus: float, workers: int | None, device: Device, expected: PoolOptions
) -> None:
    assert place_actors(nodes, cpus, workers, device) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "message"),
    [
        ([CPU], None, "gpu", "--device gpu: the cluster has no GPU; use --device cpu"),
        ([GPU], 5, "auto", "--workers 5: needs 5 GPUs; there are 4"),
        ([CPU], 4, "auto", r"4 actors x 2 CPUs and 0\.5 for reading need 8\.5 CPUs; there are 8\. Lower --workers"),
        ([Node(1, 0)], None, "auto", r"evaluation\.cpus"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    nodes: list[Node], workers: int | None, device: Device, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        place_actors(nodes, 2, workers, device)


def test_a_cluster_that_grows_is_asked_for_what_is_lacking() -> None:
    assert place_actors([Node(0, 0)], 2, 8, "gpu", grows=True) == PoolOptions(8, 2, 1)
