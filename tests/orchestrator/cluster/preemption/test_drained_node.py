"""Which node is drained and until when, and what a process that asks Ray makes of trouble."""

from __future__ import annotations

import pytest

from orchestrator.cluster.launch.subprocesses import ChildFailedError
from orchestrator.cluster.preemption import drain_process
from orchestrator.cluster.preemption.drain import DrainError, DrainTarget, Machine, choose_node, deadline_to_set
from orchestrator.cluster.preemption.drain_process import find_node_to_drain

ALIVE = {"aa": "10.0.0.1", "bb": "10.0.0.2", "cc": "10.0.0.2"}


def machine(*raylets: str, address: str = "10.9.9.9") -> Machine:
    return Machine(frozenset(raylets), frozenset({address}))


def test_the_node_whose_raylet_runs_here() -> None:
    assert choose_node(ALIVE, machine("bb", "of another cluster", address="10.0.0.1"), None) == "bb"


def test_beside_rays_container_the_address_tells() -> None:
    assert choose_node(ALIVE, machine(address="10.0.0.1"), None) == "aa"
    assert choose_node(ALIVE, machine("of another cluster", address="10.0.0.1"), None) == "aa"


def test_a_named_node_is_taken_wherever_it_is() -> None:
    assert choose_node(ALIVE, machine("bb"), "cc") == "cc"


@pytest.mark.parametrize(
    ("here", "node_id", "message"),
    [
        (machine("bb", "cc"), None, "2 nodes run on this machine; name one with --node-id: bb, cc"),
        (machine(address="10.0.0.2"), None, "2 nodes run on this machine"),
        (machine(), None, r"none of the cluster's 3 nodes runs on this machine \(10.9.9.9\)"),
        (machine("aa"), "dd", "no alive node of the cluster has the id dd; alive are aa, bb, cc"),
    ],
)
def test_no_node_is_guessed(here: Machine, node_id: str | None, message: str) -> None:
    with pytest.raises(DrainError, match=message):
        choose_node(ALIVE, here, node_id)


def test_of_many_nodes_some_are_shown() -> None:
    with pytest.raises(DrainError, match=r"alive are 0, 1, 2, 3 and 5 more\.$"):
        choose_node({str(one): "" for one in range(9)}, machine(), "x")


@pytest.mark.parametrize(
    ("notice_ms", "current_ms", "new_ms"),
    [
        (None, None, 0),
        (5, None, 5),
        (-7, None, 1),
        (None, 0, None),
        (None, 9, None),
        (5, 0, 5),
        (5, 9, 5),
        (9, 9, None),
        (9, 5, None),
    ],
)
def test_a_deadline_is_never_taken_back(notice_ms: int | None, current_ms: int | None, new_ms: int | None) -> None:
    assert deadline_to_set(notice_ms, current_ms) == new_ms


def test_a_cluster_that_is_not_there_is_named_with_the_fix() -> None:
    with pytest.raises(DrainError, match=r"^no Ray cluster answers at .*:1 \(Connection refused\); check --address"):
        find_node_to_drain(DrainTarget("127.0.0.1:1"))


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("", "Ray ended the process that queried it: it printed nothing."),
        ("x\nSegmentation fault\n", "Ray ended the process that queried it: Segmentation fault."),
    ],
)
def test_a_process_that_ray_ends_is_explained(stderr: str, message: str) -> None:
    assert str(drain_process._child_failed(ChildFailedError(stderr))) == message


def test_a_process_that_gives_no_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_process, "ATTEMPT_S", 0.01)
    with pytest.raises(DrainError, match=r"10\.0\.0\.1:6379 gave no answer within 0\.01 s"):
        find_node_to_drain(DrainTarget("10.0.0.1:6379"))
