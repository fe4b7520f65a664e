"""Ranges of local files, and how neighbours are merged."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage.location import locate
from orchestrator.storage.range_reader import LARGEST_MERGE_BYTES, FileRange, merge, read_ranges
from orchestrator.storage.retry import StorageError

CONTENT = bytes(range(256)) * 40
A, B = locate("/data/a"), locate("/data/b")


def extents(wanted: list[FileRange], gap_bytes: int) -> list[tuple[str, int, int]]:
    return [(one.location.name, one.start, one.stop) for one in merge(wanted, gap_bytes)]


def test_neighbours_are_read_together() -> None:
    wanted = [FileRange(A, 30, 40), FileRange(B, 0, 5), FileRange(A, 0, 10), FileRange(A, 15, 20)]
    assert extents(wanted, 0) == [("a", 0, 10), ("a", 15, 20), ("a", 30, 40), ("b", 0, 5)]
    assert extents(wanted, 5) == [("a", 0, 20), ("a", 30, 40), ("b", 0, 5)]
    assert extents(wanted, 10) == [("a", 0, 40), ("b", 0, 5)]


def test_ranges_may_lie_in_each_other_and_be_empty() -> None:
    wanted = [FileRange(A, 0, 100), FileRange(A, 20, 30), FileRange(A, 90, 110), FileRange(A, 50, 50)]
    assert extents(wanted, 0) == [("a", 0, 110)]


def test_merging_stops_at_a_length_but_no_range_is_split() -> None:
    size = LARGEST_MERGE_BYTES
    wanted = [FileRange(A, 0, size - 1), FileRange(A, size - 1, size + 1), FileRange(A, size + 1, 3 * size)]
    assert extents(wanted, 0) == [("a", 0, size - 1), ("a", size - 1, size + 1), ("a", size + 1, 3 * size)]


@given(
    ranges=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10300), st.integers(0, 400)), max_size=20),
    gap_bytes=st.sampled_from([0, 1, 100, 100_000, None]),
)
def test_every_range_comes_back_in_its_place(
    ranges: list[tuple[int, int, int]], gap_bytes: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = locate(str(tmp_path_factory.getbasetemp() / "ranges"))
    contents = [CONTENT, CONTENT[::-1]]
    for number, content in enumerate(contents):
        if (folder / str(number)).size() is None:
            (folder / str(number)).write(content)
    wanted = [FileRange(folder / str(number), start, start + size) for number, start, size in ranges]
    expected = [contents[number][start : start + size] for number, start, size in ranges]
    assert [bytes(found) for found in read_ranges(wanted, gap_bytes)] == expected


def test_a_range_behind_the_end_comes_back_short(tmp_path: Path) -> None:
    place = locate(str(tmp_path)) / "x"
    place.write(b"0123456789")
    wanted = [FileRange(place, 8, 12), FileRange(place, 20, 30), FileRange(place, 0, 3)]
    assert [bytes(found) for found in read_ranges(wanted)] == [b"89", b"", b"012"]


def test_nothing_is_copied(tmp_path: Path) -> None:
    place = locate(str(tmp_path)) / "x"
    place.write(CONTENT)
    first, second = read_ranges([FileRange(place, 0, 10), FileRange(place, 20, 30)])
    assert first.obj is second.obj


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.tar: cannot be read: it does not exist"):
        read_ranges([FileRange(locate(str(tmp_path)) / "gone.tar", 0, 1)])


def test_nothing_wanted_is_nothing_read() -> None:
    assert read_ranges([]) == []
