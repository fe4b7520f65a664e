"""What a run's machines cost is arithmetic over periods; nothing is charged twice, or lost over a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.location import Location, locate
from orchestrator.track.cost import (
    CostRecordError,
    Costs,
    MachineKind,
    RunCost,
    StartUsage,
    cost_tags,
    read_starts,
    write_start,
)

HEAD = MachineKind("m7i.2xlarge", "on-demand", 0.5)
GPU = MachineKind("p5.48xlarge", "spot", 30.0)
UNKNOWN = MachineKind(None, None, None)
HOUR_MS = 3_600_000


def hours(count: float) -> int:
    return round(count * HOUR_MS)


GROWING = (
    StartUsage(0, 0).seen(0, {HEAD: 1}).seen(hours(1), {HEAD: 1, GPU: 2}).seen(hours(3), {HEAD: 1}).until(hours(4))
)
"""Two machines with GPUs between the first and the third of four hours."""


@pytest.fixture
def folder(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "costs"))


def test_machines_are_charged_from_the_look_that_saw_them_to_the_one_that_missed_them() -> None:
    spent = Costs([GROWING]).spent()
    assert spent.node_seconds == {HEAD: 4 * 3600, GPU: 4 * 3600}
    assert (spent.hours, spent.node_hours, spent.usd) == (4.0, 8.0, 4 * 0.5 + 4 * 30.0)
    assert spent.unpriced_node_hours == 0.0


def test_looks_that_see_the_same_add_no_period() -> None:
    start = StartUsage(0, 0)
    for second in range(100):
        start = start.seen(1000 * second, {HEAD: 1})
    assert len(start.periods) == 1
    assert Costs([start]).spent().node_seconds == {HEAD: 99.0}


def test_a_clock_that_is_put_back_charges_nothing_twice() -> None:
    start = StartUsage(0, 0).seen(0, {HEAD: 1}).seen(10_000, {HEAD: 1}).seen(4_000, {HEAD: 1}).seen(12_000, {HEAD: 1})
    assert Costs([start]).spent().node_seconds == {HEAD: 12.0}


def test_the_time_before_the_first_look_counts_as_wall_time_alone() -> None:
    spent = Costs([StartUsage(0, 0).seen(30_000, {HEAD: 1}).until(40_000)]).spent()
    assert (spent.seconds, spent.node_seconds) == (40.0, {HEAD: 10.0})


@pytest.mark.parametrize(
    ("at_hours", "usd", "node_hours"),
    [(-1, 0.0, 0.0), (0, 0.0, 0.0), (0.5, 0.25, 0.5), (2, 1 + 60, 4), (3, 1.5 + 120, 7), (4, 122, 8), (9, 122, 8)],
)
def test_the_curve_tells_the_cost_of_any_time(at_hours: float, usd: float, node_hours: float) -> None:
    assert Costs([GROWING]).metrics(hours(at_hours)) == pytest.approx({"cost/usd": usd, "cost/node_hours": node_hours})


def test_while_a_run_goes_on_its_machines_are_taken_to_stay() -> None:
    running = Costs([GROWING], running=True)
    assert running.metrics(hours(6))["cost/usd"] == pytest.approx(122 + 1)
    assert running.metrics(hours(2)) == Costs([GROWING]).metrics(hours(2))


def test_a_share_of_the_machines_is_charged() -> None:
    quarter = StartUsage(0, 0, share=0.25).seen(0, {GPU: 1}).until(hours(2))
    costs = Costs([quarter])
    assert costs.spent().usd == costs.metrics(hours(2))["cost/usd"] == 15.0
    assert costs.spent().hours == 2.0


def test_a_driver_that_lives_on_beside_its_successor_is_charged_until_that_began() -> None:
    first = StartUsage(0, 0).seen(0, {HEAD: 1}).until(hours(3))
    second = StartUsage(hours(2), hours(2)).seen(hours(2), {HEAD: 1}).until(hours(5))
    for order in ([first, second], [second, first]):
        spent = Costs(order).spent()
        assert (spent.hours, spent.node_hours) == (5.0, 5.0)
        assert Costs(order).metrics(hours(4))["cost/node_hours"] == 4.0


def test_time_between_starts_costs_nothing() -> None:
    first = StartUsage(0, 0).seen(0, {HEAD: 1}).until(hours(1))
    second = StartUsage(hours(10), hours(10)).seen(hours(10), {HEAD: 1}).until(hours(11))
    costs = Costs([first, second])
    assert costs.metrics(hours(5)) == costs.metrics(hours(1)) == costs.metrics(hours(10))
    assert costs.spent().hours == 2.0


def test_machines_without_a_price_are_metered_apart() -> None:
    costs = Costs([StartUsage(0, 0).seen(0, {UNKNOWN: 2, HEAD: 1}).until(hours(1))])
    assert costs.metrics(hours(1)) == {"cost/usd": 0.5, "cost/node_hours": 3.0, "cost/unpriced_node_hours": 2.0}
    assert costs.spent().describe() == "0.50 USD for 3.00 node-hours, 2.00 of them without a known price"


def test_nothing_known_is_nothing_tracked() -> None:
    assert Costs().metrics(5) == {}
    assert cost_tags(RunCost()) == {}


def test_tags_tell_of_the_total_and_of_every_kind_whatever_its_price_was_when() -> None:
    cheaper = MachineKind("p5.48xlarge", "spot", 20.0)
    spent = RunCost(3600.0, {GPU: 3600.0, cheaper: 7200.0, UNKNOWN: 1800.0})
    assert cost_tags(spent) == {
        "cost_usd": "70.0000",
        "cost_node_hours": "3.5000",
        "node_hours/p5.48xlarge/spot": "3.0000",
        "node_hours/unlabelled": "0.5000",
    }


def test_a_start_is_written_as_often_as_one_likes_and_read_once(folder: Location) -> None:
    start = StartUsage(5, 5, share=0.5).seen(5, {HEAD: 1, UNKNOWN: 1})
    for second in range(5):
        start = start.seen(1000 * second, {HEAD: 1, GPU: second})
        write_start(folder, start)
    other = StartUsage(99_000, 99_000).seen(99_000, {HEAD: 3}).until(100_000)
    write_start(folder, other)
    assert {found.begin_ms: found for found in read_starts(folder)} == {
        5: _without_zeros(start),
        99_000: other,
    }


def test_a_damaged_file_is_named(folder: Location) -> None:
    (folder / "start-7.json").write(b'{"begin_ms": 7}')
    with pytest.raises(CostRecordError, match=r"start-7\.json: is damaged .*move it away"):
        read_starts(folder)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=20))
def test_the_end_of_the_curve_is_the_total(looks: list[tuple[int, int, int]]) -> None:
    start, now_ms = StartUsage(0, 0), 0
    for later_ms, heads, gpus in looks:
        now_ms += later_ms
        start = start.seen(now_ms, {HEAD: heads, GPU: gpus})
    costs, spent = Costs([start]), Costs([start]).spent()
    assert costs.metrics(now_ms)["cost/usd"] == pytest.approx(spent.usd)
    assert costs.metrics(now_ms)["cost/node_hours"] == pytest.approx(spent.node_hours)


def _without_zeros(start: StartUsage) -> StartUsage:
    periods = (replace(one, nodes={kind: count for kind, count in one.nodes.items() if count}) for one in start.periods)
    return replace(start, periods=tuple(periods))
