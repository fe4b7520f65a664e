"""A set of steps as ranges."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.track.run_writer import StepRanges

STEPS = st.lists(st.integers(0, 40), max_size=60)


@given(STEPS, STEPS)
def test_it_holds_what_a_set_holds(first: list[int], then: list[int]) -> None:
    ranges, expected = StepRanges(first), set(first) | set(then)
    for step in then:
        ranges.add(step)
    assert list(ranges) == sorted(expected)
    assert len(ranges) == len(expected)
    assert ranges.stop == max(expected, default=-1) + 1
    assert [step in ranges for step in range(-1, 43)] == [step in expected for step in range(-1, 43)]


@given(STEPS, st.integers(0, 40), st.integers(0, 6))
def test_it_covers_neighbours_when_it_has_them_all(steps: list[int], start: int, length: int) -> None:
    wanted = range(start, start + length)
    assert StepRanges(steps).covers(wanted) == (set(wanted) <= set(steps))
