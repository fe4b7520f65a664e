"""The schedule of a chaos run, and what it may strike, are pure functions."""

from collections import Counter

import pytest
from chaos_schedule import TAKES_A_NODE, Kind, Nodes, ScheduleError, schedule
from chaos_scope import Scope

NODES = Nodes(first=2, fewest=1, most=3)


@pytest.mark.parametrize("seed", range(20))
def test_faults_come_in_order_evenly_and_within_the_nodes(seed: int) -> None:
    steps = range(6, 115)
    drawn = schedule(seed, 18, tuple(Kind), steps, NODES)
    assert drawn == schedule(seed, 18, tuple(Kind), steps, NODES)
    assert len({fault.step for fault in drawn}) == 18
    assert [fault.step for fault in drawn] == sorted(fault.step for fault in drawn)
    assert all(fault.step in steps and 0 <= fault.draw < 1 for fault in drawn)
    assert Counter(fault.kind for fault in drawn).keys() == set(Kind)
    count = NODES.first
    for fault in drawn:
        count += (fault.kind is Kind.NODE_ADD) - (fault.kind in TAKES_A_NODE)
        assert NODES.fewest <= count <= NODES.most


def test_other_seeds_give_other_schedules() -> None:
    assert len({schedule(seed, 9, tuple(Kind), range(100), NODES) for seed in range(10)}) == 10


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ScheduleError, match="after 1 faults 1 nodes are left; add node_add"):
        schedule(0, 2, (Kind.NODE_REMOVE,), range(100), NODES)
    with pytest.raises(ScheduleError, match="5 faults need more than 4 steps"):
        schedule(0, 5, (Kind.WORKER_KILL,), range(4), NODES)


def test_what_is_not_the_tools_own_is_left_alone() -> None:
    assert Scope(own_cluster=True, own_storage=True, consent=False).kinds() == tuple(Kind)
    users = Scope(own_cluster=False, own_storage=False, consent=False)
    assert users.kinds() == (Kind.WORKER_KILL, Kind.WORKER_STOP, Kind.DRIVER_KILL)
    assert "leave --address out" in str(users.refusal(Kind.PREEMPTION))
    assert "leave --recipe out" in str(users.refusal(Kind.STORAGE_FAULT))
    assert "--corrupt-checkpoints" in str(users.refusal(Kind.CHECKPOINT_CORRUPTION))
    assert Scope(own_cluster=False, own_storage=False, consent=True).refusal(Kind.CHECKPOINT_CORRUPTION) is None
