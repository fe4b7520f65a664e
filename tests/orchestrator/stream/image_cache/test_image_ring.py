"""The ring goes round in its room: what it holds has not been written over, and the oldest go first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stream.image_cache.ring_file import PAGE_BYTES, START, Head

MUCH = 10**12
PAGES = st.integers(1, 8)


def pages(head: Head, position: int, size: int) -> range:
    """The pages of the file that an entry takes."""
    first = position % head.capacity // PAGE_BYTES
    return range(first, first + size // PAGE_BYTES)


@given(
    capacity=st.integers(64, 90),
    entries=st.lists(st.tuples(PAGES, st.booleans()), max_size=60),
    full_from=st.integers(),
)
def test_what_is_held_shares_no_page_with_another_and_lies_within_the_room(
    capacity: int, entries: list[tuple[int, bool]], full_from: int
) -> None:
    head, given_out = Head(capacity * PAGE_BYTES, START), []
    for number, (count, disk_is_full) in enumerate(entries):
        size = count * PAGE_BYTES
        try:
            head, position = head.allocate(size, 0 if disk_is_full else MUCH)
        except OSError:
            assert number < 64
            assert disk_is_full
            continue
        given_out.append((position, size))
        assert head.holds(position)
        try_lock = [(p, s) for p, s in given_out if head.holds(p)]
        taken = [page for p, s in try_lock for page in pages(head, p, s)]
        assert len(taken) == len(set(taken))
        assert max(taken) < head.capacity // PAGE_BYTES <= capacity
        assert try_lock == given_out[len(given_out) - len(try_lock) :]


def test_a_disk_without_room_keeps_the_ring_at_its_size() -> None:
    head = Head(100 * PAGE_BYTES, 40 * PAGE_BYTES)
    after, position = head.allocate(2 * PAGE_BYTES, spare_bytes=PAGE_BYTES)
    assert after == Head(40 * PAGE_BYTES, 42 * PAGE_BYTES)
    assert position % after.capacity == 0
    assert after.holds(39 * PAGE_BYTES)
    assert not after.holds(START)


def test_a_disk_without_any_room_is_told() -> None:
    with pytest.raises(OSError, match="nearly full"):
        Head(100 * PAGE_BYTES, START).allocate(PAGE_BYTES, spare_bytes=0)


def test_a_ring_that_has_gone_round_needs_no_more_of_the_disk() -> None:
    head = Head(10 * PAGE_BYTES, 25 * PAGE_BYTES)
    assert head.allocate(PAGE_BYTES, spare_bytes=0) == (Head(10 * PAGE_BYTES, 26 * PAGE_BYTES), 25 * PAGE_BYTES)
