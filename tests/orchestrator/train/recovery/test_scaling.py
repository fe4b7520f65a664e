"""How many workers an elastic run has is decided without a cluster."""

import pytest

from orchestrator.stream.placement import Node
from orchestrator.train.recovery.scaling import choose_workers

ONE = Node(1, 0)


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
