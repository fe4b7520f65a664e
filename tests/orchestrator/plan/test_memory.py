"""What a worker needs of a GPU's memory."""

from dataclasses import replace
from typing import Any

import pytest
from planned import FOOTPRINT, PRICES, cluster, group, recipe

from orchestrator.cluster.findings import Level
from orchestrator.plan.machines import node_types_of
from orchestrator.plan.memory import check_gpu_memory, check_main_memory, largest_micro_batch, memory_need

GB = 10**9


def test_a_worker_that_holds_everything() -> None:
    need = memory_need(FOOTPRINT, recipe(), 8)
    assert (need.model, need.gradients, need.optimizer) == (2 * GB, 1 * GB, 2 * GB)
    assert need.activations == round(1.1 * (0.5 + 6.4) * GB)
    assert need.total == 5 * GB + need.activations + 1_500_000_000


def test_sharding_divides_moments_and_resting_values_but_not_what_the_passes_use() -> None:
    need = memory_need(FOOTPRINT, recipe(scale={"workers": 8, "use_gpu": True, "parallel": "sharded"}), 8)
    assert (need.model, need.gradients, need.optimizer) == (2.25 * GB, 1 * GB, 0.25 * GB)


@pytest.mark.parametrize(
    ("machine", "sample_bytes", "level"),
    [
        ("big-gpu", 10**8, "pass"),
        ("big-gpu", 10**9, "warning"),  # 77 of 80 GB
        ("big-gpu", 2 * 10**9, "error"),
        ("one-gpu", 10**8, "pass"),  # 14 of 24 GB
        ("one-gpu", 3 * 10**8, "error"),
    ],
)
def test_whether_it_fits(machine: str, sample_bytes: int, level: Level) -> None:
    node_types = node_types_of(cluster(group("gpus", machine, 8)), PRICES, cpus_here=2)
    (finding,) = check_gpu_memory(replace(FOOTPRINT, sample_bytes=sample_bytes), recipe(), node_types)
    assert finding.level == level
    assert "estimate" in finding.found


def test_the_fix_names_a_micro_batch_that_fits() -> None:
    large = replace(FOOTPRINT, sample_bytes=2 * GB)
    fitting = largest_micro_batch(large, recipe(), 8, 80 * GB)
    batch: dict[str, Any] = {"micro_batches": 8, "micro_batch_size": fitting}
    assert memory_need(large, recipe(batch=batch), 8).total <= 0.9 * 80 * GB
    batch["micro_batch_size"] += 1
    assert memory_need(large, recipe(batch=batch), 8).total > 0.9 * 80 * GB
    node_types = node_types_of(cluster(group("gpus", "big-gpu", 8)), PRICES, cpus_here=2)
    (finding,) = check_gpu_memory(large, recipe(), node_types)
    assert f"batch.micro_batch_size to about {fitting} " in finding.fix


def test_gpus_of_unknown_size() -> None:
    node_types = node_types_of(cluster(group("own", None, 1, gpus=8)), PRICES, cpus_here=2)
    (finding,) = check_gpu_memory(FOOTPRINT, recipe(), node_types)
    assert finding.level == "warning"


@pytest.mark.parametrize(("cpus_per_worker", "level"), [(16.0, "pass"), (4.0, "warning")])
def test_workers_on_cpus_share_a_machine(cpus_per_worker: float, level: Level) -> None:
    scale = {"workers": 8, "cpus_per_worker": cpus_per_worker}
    node_types = node_types_of(cluster(group("cpus", "cpu", 8)), PRICES, cpus_here=2)
    (finding,) = check_main_memory(FOOTPRINT, recipe(scale=scale), node_types)
    assert finding.level == level
