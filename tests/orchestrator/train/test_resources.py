"""A run waits for machines that can come, and refuses at once what never can; the test is the clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from orchestrator.config.cluster import MACHINES_VARIABLE, NodeGroup, node_groups_variable, read_node_groups
from orchestrator.config.errors import ConfigError
from orchestrator.config.prices import Machine
from orchestrator.config.recipe import Recipe
from orchestrator.stream.decoder import Node
from orchestrator.train.resources import AutoscalingCapacity, NodeWait, minimum_bundles, nodes_at_full_size

HEAD = Node(1, 0)
TRAIN = Node(8, 1)


def recipe(**scale: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "run",
            "workload": "albef",
            "data": {"train": "x"},
            "batch": {"micro_batches": 4, "micro_batch_size": 4},
            "length": {"steps": 1},
            "scale": {"cpus_per_worker": 8.0, "machines_wait_s": 10.0} | scale,
        }
    )


@dataclass
class Cluster:
    """Machines that come one look after the other, a clock, and what was said and asked."""

    looks: Iterator[list[Node]]
    now_s: float = 0.0
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def hold(self) -> None:
        self.asked.append("hold")

    def release(self) -> None:
        self.asked.append("release")

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def gathering(self, capacity: AutoscalingCapacity | None, **scale: object) -> NodeWait:
        look = lambda: next(self.looks)  # noqa: E731
        return NodeWait(recipe(**scale), capacity, self, self.said.append, look, lambda: self.now_s, self.sleep)


def never() -> bool:
    return False


def test_a_cluster_that_does_not_grow_must_have_it_all() -> None:
    cluster = Cluster(iter([[HEAD]]))
    with pytest.raises(ConfigError, match=r"need 9 CPUs; there are 1\."):
        cluster.gathering(None).wait(never)
    assert not cluster.asked
    assert Cluster(iter([[HEAD, TRAIN]])).gathering(None).wait(never)


def test_it_asks_and_waits_until_the_machines_are_there() -> None:
    cluster = Cluster(iter([[HEAD], [HEAD], [HEAD], [HEAD, TRAIN]]))
    assert cluster.gathering(AutoscalingCapacity([HEAD, TRAIN, TRAIN])).wait(never)
    assert cluster.asked == ["hold", "hold", "release"]
    assert cluster.said == [
        "waiting for machines: have 1 machines with 1 CPUs, asked for 1 x 8 CPUs for workers and 1 CPUs for reading",
        "the machines are there after 2 s: 2 machines with 9 CPUs and 1 GPUs",
    ]


def test_nothing_is_asked_for_when_all_is_there() -> None:
    cluster = Cluster(iter([[HEAD, TRAIN]]))
    assert cluster.gathering(AutoscalingCapacity([HEAD, TRAIN, TRAIN])).wait(never)
    assert not cluster.asked
    assert not cluster.said


def test_what_the_cluster_can_never_have_is_refused_at_once() -> None:
    cluster = Cluster(iter([[HEAD]]))
    with pytest.raises(ConfigError, match="3 workers need 3 GPUs; there are 2"):
        cluster.gathering(
            AutoscalingCapacity([HEAD] * 20 + [TRAIN, TRAIN]), workers=3, use_gpu=True, cpus_per_worker=1.0
        ).wait(never)
    assert not cluster.asked


def test_it_waits_when_nobody_knows_what_can_come_but_not_for_ever() -> None:
    cluster = Cluster(iter([[HEAD]] * 50))
    with pytest.raises(
        ConfigError, match=r"scale.machines_wait_s: for 10 s the cluster has not brought .* it has 1 mach"
    ):
        cluster.gathering(AutoscalingCapacity(None)).wait(never)
    assert cluster.asked[-1] == "release"
    assert cluster.now_s == pytest.approx(11.0)


def test_a_wish_to_stop_ends_the_waiting() -> None:
    cluster = Cluster(iter([[HEAD]] * 50))
    assert not cluster.gathering(AutoscalingCapacity(None)).wait(lambda: cluster.now_s >= 3)
    assert cluster.asked[-1] == "release"


def test_a_run_asks_for_its_fewest_workers_and_whole_cpus_to_read_with() -> None:
    wide = recipe(workers=[2, 4], use_gpu=True)
    assert minimum_bundles(wide) == [{"CPU": 8.0, "GPU": 1.0}] * 2 + [{"CPU": 1.0}]


GROUPS = (
    NodeGroup(name="head", machine="m7i", market="on-demand", fewest=1, most=1, cpus=None, gpus=0, head=True),
    NodeGroup(name="gpu", machine="p5", market="spot", fewest=0, most=2, cpus=192, gpus=8),
)


def test_the_groups_travel_in_a_variable() -> None:
    variable = node_groups_variable(GROUPS)
    assert read_node_groups(variable) == GROUPS
    assert read_node_groups({}) is None
    assert read_node_groups({MACHINES_VARIABLE: ""}) is None
    for wrong in ("no JSON", "[1]", '[{"name": "x"}]'):
        with pytest.raises(ConfigError, match="FUSERAY_MACHINES: does not list groups of machines"):
            read_node_groups({MACHINES_VARIABLE: wrong})


def test_a_file_may_leave_the_cpus_to_the_machine() -> None:
    machines = {"m7i": Machine(name="m7i", cpus=8, memory_gb=32)}
    assert nodes_at_full_size(GROUPS, machines) == [Node(8, 0), Node(192, 8), Node(192, 8)]
    assert nodes_at_full_size(GROUPS, {}) is None
