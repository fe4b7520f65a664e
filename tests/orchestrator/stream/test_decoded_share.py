"""Decoding is shared out by CPUs, and a cluster without a CPU for reading is recognised."""

import pytest

from orchestrator.stream.decoder import Node, can_read, decoded_share
from orchestrator.stream.loader import bottleneck_advice


def test_a_wish_is_followed() -> None:
    nodes = [Node(64, 8)]
    assert decoded_share("workers", nodes, 8, 4, 4) == 0
    assert decoded_share("readers", nodes, 8, 4, 4) == 1


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus_per_worker", "threads", "expected"),
    [
        ([Node(2, 0)], 1, 1, 2, 1 / (1 + 1)),
        ([Node(3, 0)], 2, 0.5, 2, 2 / (2 + 2)),
        ([Node(16, 8), Node(32, 0)], 8, 2, 2, 32 / (32 + 12)),
        ([Node(96, 8)], 8, 4, 1, 64 / (64 + 8)),
    ],
)
def test_auto_gives_every_cpu_as_much(
    nodes: list[Node], workers: int, cpus_per_worker: float, threads: int, expected: float
) -> None:
    assert decoded_share("auto", nodes, workers, cpus_per_worker, threads) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("nodes", "workers", "cpus_per_worker", "expected"),
    [
        ([Node(2, 0)], 1, 1.0, True),
        ([Node(2, 0)], 2, 1.0, False),
        ([Node(2, 0)], 2, 0.5, True),
        ([Node(4, 0), Node(4, 0)], 2, 3.5, False),
        ([Node(4, 0), Node(4, 0), Node(1, 0)], 2, 3.5, True),
        ([Node(4, 4), Node(8, 0)], 4, 1.0, True),
        ([Node(4, 0)], 5, 1.0, False),
    ],
)
def test_reading_needs_a_whole_cpu_on_some_machine(
    nodes: list[Node], workers: int, cpus_per_worker: float, expected: bool
) -> None:
    assert can_read(nodes, workers, cpus_per_worker) is expected


def test_advice_names_the_knob_of_the_longer_wait() -> None:
    assert bottleneck_advice(1.0, 1.0, 100.0) is None
    assert bottleneck_advice(0.0, 0.0, 0.0) is None
    decoding, reading = bottleneck_advice(1.0, 20.0, 100.0), bottleneck_advice(20.0, 1.0, 100.0)
    assert decoding is not None
    assert "21%" in decoding
    assert "stream.decode_threads" in decoding
    assert reading is not None
    assert "stream.chunk" in reading
