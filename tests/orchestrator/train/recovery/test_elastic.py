"""How many workers an elastic run has is decided without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision

from orchestrator.stream.decoder import Node
from orchestrator.train.recovery import elastic
from orchestrator.train.recovery.elastic import ElasticWorkers, choose_workers

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState

ONE = Node(1, 0)
SMALLER = ResizeDecision(num_workers=1, resources_per_worker={"CPU": 1.0})


@pytest.mark.parametrize(
    ("room_for", "nodes", "current", "workers"),
    [
        (3, [ONE] * 4, None, 3),
        (3, [ONE] * 3, None, 2),  # one CPU stays free for reading
        (3, [ONE], None, 0),
        (0, [ONE] * 4, None, 0),
        (3, [], None, 0),
        (3, [ONE] * 4, 2, 3),  # a machine has joined
        (1, [ONE] * 3, 2, 2),  # others have a claim, but those who are well stay
        (3, [ONE] * 2, 2, 1),  # the machine that did the reading has gone
        (2, [Node(2, 0), Node(0.5, 0)], None, 1),  # two workers would leave no whole CPU on any machine
    ],
)
def test_workers_are_as_many_as_have_room_beside_the_readers(
    room_for: int, nodes: list[Node], current: int | None, workers: int
) -> None:
    assert choose_workers(room_for, nodes, 1.0, 1.0, current) == workers


def test_all_cpus_that_are_kept_for_reading_stay_free() -> None:
    assert choose_workers(8, [Node(8, 0)], 1.0, 4.0) == 4


@pytest.mark.parametrize(("draining", "decision"), [("b", NoopDecision()), ("c", SMALLER)])
def test_workers_whose_machine_drains_are_preempted_not_made_fewer(
    draining: str, decision: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ElasticScalingPolicy, "make_decision_for_running_worker_group", lambda *_: SMALLER)
    monkeypatch.setattr(elastic, "_draining_nodes", lambda: {draining: 0})
    workers = [SimpleNamespace(metadata=SimpleNamespace(node_id=node)) for node in ("a", "b")]
    group = cast("WorkerGroupState", SimpleNamespace(num_workers=2, workers=workers))
    policy = ElasticWorkers(ScalingConfig(num_workers=(1, 3)), "run", 1.0, lambda: None)
    assert policy.make_decision_for_running_worker_group(group, cast("WorkerGroupPollStatus", None)) == decision
