"""Whether a cluster can ever hold a run."""

from typing import Any

import pytest
from planned import PRICES, cluster, group, recipe

from orchestrator.cluster.findings import Finding, Level
from orchestrator.config.cluster import NodeGroup
from orchestrator.plan.checks import check_room
from orchestrator.plan.machines import fleet_for, node_types_of

BIG, CPU = group("big", "big-gpu", 2), group("cpu", "cpu", 1)


def found(groups: tuple[NodeGroup, ...], **values: Any) -> list[Finding]:
    asked, node_types = recipe(**values), node_types_of(cluster(*groups), PRICES, cpus_here=2)
    largest = fleet_for(node_types, asked.scale.max_workers, asked, asked.stream.reader_cpus)
    return list(check_room(asked, node_types, largest))


MANY = {"micro_batches": 64, "micro_batch_size": 2}


@pytest.mark.parametrize(
    ("groups", "values", "level", "said"),
    [
        ((BIG, CPU), {}, "pass", "8 workers find room, with 88 CPUs left"),
        ((CPU,), {}, "error", "scale.use_gpu: the cluster has no GPUs"),
        ((BIG,), {"scale": {"workers": 17, "use_gpu": True}, "batch": MANY}, "error", "the cluster has 16 at most"),
        ((BIG,), {"scale": {"workers": [8, 32], "use_gpu": True}, "batch": MANY}, "warning", "holds 16 of up to 32"),
        ((CPU,), {"scale": {"workers": 2, "cpus_per_worker": 40.0}}, "error", "the cluster holds 0"),
        ((CPU,), {"scale": {"workers": 4, "cpus_per_worker": 8.0}}, "error", "need 33 CPUs; the cluster has 32"),
        ((group("small", "small", 4),), {"scale": {"workers": 4, "cpus_per_worker": 3.5}}, "error", "a whole CPU"),
    ],
)
def test_each_obstacle(groups: tuple[NodeGroup, ...], values: dict[str, Any], level: Level, said: str) -> None:
    first = found(groups, **values)[0]
    assert (first.level, said in first.found) == (level, True), first
    assert bool(first.fix) == (level != "pass")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"scale": {"workers": 4, "use_gpu": True}}, "4 of 8 GPUs"),
        ({"scale": {"workers": 4}}, "scale.use_gpu is false, and 8 GPUs"),
    ],
)
def test_gpus_that_stand_idle(values: dict[str, Any], said: str) -> None:
    findings = found((group("big", "big-gpu", 1, fewest=1),), **values)
    assert [(finding.level, said in finding.found) for finding in findings[1:]] == [("warning", True)]


def test_machines_of_unknown_size_are_named() -> None:
    findings = found((group("own", None, 1, market="owned", gpus=8),))
    assert [finding.level for finding in findings] == ["pass", "warning"]
    assert "own: the number of CPUs of its machines is unknown" in findings[1].found
