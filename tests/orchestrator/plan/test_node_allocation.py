"""How many machines of which kind a run needs."""

import math

import pytest
from planned import HEAD, PRICES, cluster, group, recipe

from orchestrator.config.cluster import NodeGroup
from orchestrator.plan.machines import check_prices, fleet_for, node_types_of

BIG, ONE, CPU = group("big", "big-gpu", 2), group("one", "one-gpu", 4), group("cpu", "cpu", 3, market="on-demand")


def machines(groups: tuple[NodeGroup, ...], workers: int, reading_cpus: float, **scale: object) -> dict[str, int]:
    node_types = node_types_of(cluster(*groups), PRICES, cpus_here=2)
    asked = recipe(
        scale={"workers": workers, "use_gpu": True} | scale, batch={"micro_batches": 99, "micro_batch_size": 2}
    )
    fleet = fleet_for(node_types, workers, asked, reading_cpus)
    return {
        allocation.node_type.group.name: allocation.machines
        for allocation in fleet.allocations
        if not allocation.node_type.group.head
    }


@pytest.mark.parametrize(
    ("groups", "workers", "reading_cpus", "scale", "expected"),
    [
        ((BIG, CPU), 8, 32, {}, {"big": 1, "cpu": 0}),  # 88 CPUs are left beside the workers
        ((BIG, CPU), 9, 32, {}, {"big": 2, "cpu": 0}),
        ((BIG, CPU), 8, 100, {}, {"big": 1, "cpu": 1}),
        ((BIG, CPU), 8, 100, {"cpus_per_worker": 12.0}, {"big": 1, "cpu": 3}),  # the cluster has no more
        ((BIG, CPU), 99, 1, {}, {"big": 2, "cpu": 0}),
        ((BIG, ONE), 4, 1, {}, {"big": 0, "one": 4}),  # a dollar a worker instead of two
        ((BIG, ONE), 5, 1, {}, {"big": 1, "one": 4}),
        ((BIG, CPU), 20, 1, {"use_gpu": False}, {"big": 0, "cpu": 1}),
        ((group("big", "big-gpu", 2, fewest=1), ONE), 4, 1, {}, {"big": 1, "one": 0}),  # it is there anyway
    ],
)
def test_as_many_as_are_needed(
    groups: tuple[NodeGroup, ...], workers: int, reading_cpus: float, scale: dict[str, object], expected: dict[str, int]
) -> None:
    assert machines(groups, workers, reading_cpus, **scale) == expected


def test_machines_that_nobody_knows_hold_what_their_gpus_hold() -> None:
    node_types = node_types_of(cluster(group("own", None, 2, market="owned", gpus=4)), PRICES, cpus_here=2)
    fleet = fleet_for(node_types, 6, recipe(), 1)
    assert (fleet.workers, fleet.spare_cpus) == (6, math.inf)
    assert fleet.usd_per_hour(lambda kind: kind.prices["owned"] if kind.group.name == "own" else 1.0) == 1.0


def test_a_local_cluster_is_this_machine() -> None:
    this = NodeGroup(name="this", machine=None, market="owned", fewest=1, most=1, cpus=None, gpus=0, head=True)
    kind = node_types_of(cluster(this, kind="local"), PRICES, cpus_here=6)[-1]
    assert (kind.cpus, kind.usd_per_hour) == (6, 0.0)


@pytest.mark.parametrize(
    ("machine", "market", "said"),
    [("small", "spot", "no spot price of small"), ("huge", "on-demand", "price of huge"), (None, "spot", "which type")],
)
def test_an_unknown_price_names_the_machine(machine: str | None, market: str, said: str) -> None:
    node_types = node_types_of(cluster(group("extra", machine, 1, market=market)), PRICES, cpus_here=2)
    (finding,) = check_prices(node_types, PRICES)
    assert finding.level == "warning"
    assert said in finding.found
    assert "--prices" in finding.fix


def test_known_prices_are_nothing_to_speak_of() -> None:
    assert check_prices(node_types_of(cluster(BIG, CPU), PRICES, cpus_here=2), PRICES) == []
    assert HEAD.market == "on-demand"
