"""Images come back as they were stored or not at all, and never take more room than they may."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest

from orchestrator.stream.image_cache.ring_file import PAGE_BYTES, Pixels, Ring, entry_bytes
from orchestrator.stream.image_cache.store import EXPECTED_BYTES, Store, Table

LIMIT = 4_000_000
MUCH = 10**9
HEIGHT, WIDTH = 150, 141


def key_of(number: int) -> bytes:
    """A key as digests are: every part of it depends on the number."""
    return np.random.default_rng(number).bytes(32)


def image(number: int, height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """An image of noise."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def keep(store: Store, number: int, pixels: Pixels | None = None) -> bool:
    """Store an image as whoever decodes it does."""
    with store.claim(key_of(number)) as mine:
        assert mine
        return store.write(key_of(number), image(number) if pixels is None else pixels)


def remaining(store: Store, numbers: range) -> list[int]:
    """The numbers of the images that are there, each of which must be right."""
    result = [number for number in numbers if store.read(key_of(number)) is not None]
    for number in result:
        np.testing.assert_array_equal(store.read(key_of(number)), image(number))
    return result


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (64, 64), (128, 260), (1, 4000)])
def test_an_image_of_any_shape_comes_back_as_memory_of_its_own(tmp_path: Path, shape: tuple[int, int]) -> None:
    store = Store(tmp_path, LIMIT)
    assert store.read(key_of(1)) is None
    assert keep(store, 1, image(1, *shape))
    result = store.read(key_of(1))
    assert result is not None
    np.testing.assert_array_equal(result, image(1, *shape))
    result[:] = 0
    np.testing.assert_array_equal(store.read(key_of(1)), image(1, *shape))


def test_the_oldest_go_first_and_the_room_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    for number in range(200):
        keep(store, number)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= LIMIT
    there = remaining(store, range(200))
    assert there == list(range(200 - len(there), 200))
    assert len(there) >= LIMIT // entry_bytes(image(0)) - 5


def test_an_image_stored_anew_is_as_young_as_any(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    for number in [*range(100), 0, *range(100, 130)]:
        keep(store, number)
    assert store.read(key_of(0)) is not None
    assert store.read(key_of(1)) is None


def test_one_image_may_not_push_out_all_others(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    keep(store, 1)
    assert not keep(store, 2, image(2, 500, 400))
    assert remaining(store, range(3)) == [1]


def test_more_images_than_the_table_has_places_for_are_right_or_missing(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    assert PAGE_BYTES * 4 <= EXPECTED_BYTES
    for number in range(900):
        with store.claim(key_of(number)):
            store.write(key_of(number), image(number, 10, 10))
    result = [number for number in range(900) if store.read(key_of(number)) is not None]
    assert 899 in result
    assert len(result) > 150
    for number in result:
        np.testing.assert_array_equal(store.read(key_of(number)), image(number, 10, 10))


@pytest.mark.parametrize("offset", [0, 20, 44, 60, 64, 2000, 64 + HEIGHT * WIDTH * 3 - 1])
def test_a_flipped_byte_anywhere_makes_an_image_missing(tmp_path: Path, offset: int) -> None:
    store = Store(tmp_path, LIMIT)
    for number in range(3):
        keep(store, number)
    with (tmp_path / "ring").open("r+b") as file:
        file.seek(PAGE_BYTES + entry_bytes(image(1)) + offset)
        before = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([before[0] ^ 1]))
    assert remaining(store, range(3)) == [0, 2]
    assert keep(store, 1)
    assert remaining(store, range(3)) == [0, 1, 2]


def test_a_part_of_another_image_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    one, other = np.full((60, 60, 3), 255, dtype=np.uint8), np.full((60, 60, 3), 255, dtype=np.uint8)
    one[10, 10], other[40, 50] = 0, 0
    keep(store, 1, one)
    half = one.copy()
    half[10, 10], half[40, 50] = 255, 0
    with (tmp_path / "ring").open("r+b") as file:
        file.seek(PAGE_BYTES + 64)
        file.write(half.tobytes())
    assert store.read(key_of(1)) is None


@pytest.mark.parametrize("name", ["ring", "table"])
def test_files_cut_short_or_overwritten_cost_no_more_than_what_was_in_them(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path, LIMIT)
    for damage in (lambda path: os.truncate(path, 5000), lambda path: path.write_bytes(b"\xab" * 600_000)):
        for number in range(5):
            keep(store, number)
        damage(tmp_path / name)
        remaining(store, range(5))
        for number in range(5):
            keep(store, number)
        assert remaining(store, range(5)) == list(range(5))


def test_a_place_that_was_given_out_and_never_written_holds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    keep(store, 1)
    position = Ring(tmp_path).allocate(image(2), lambda: MUCH)  # and then the process was killed
    assert position is not None
    Table(tmp_path / "table").put(key_of(2), position)
    keep(store, 3)
    assert remaining(store, range(4)) == [1, 3]


def test_who_was_stopped_for_a_whole_round_writes_over_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    stopped = Ring(tmp_path)
    position = stopped.allocate(image(1), lambda: MUCH)
    assert position is not None
    for number in range(2, 200):
        keep(store, number)
    before = remaining(store, range(200))
    assert not stopped.write(position, key_of(1), image(1))
    assert remaining(store, range(200)) == before


def test_who_keeps_a_claim_is_waited_for_once(tmp_path: Path) -> None:
    holder, other = Store(tmp_path, LIMIT), Store(tmp_path, LIMIT)
    with holder.claim(key_of(1)):
        for timeout_s in (0.001, 1e9):
            with other.claim(key_of(1), timeout_s) as mine:
                assert not mine
        with other.claim(key_of(2), 1e9) as mine:
            assert mine
    with other.claim(key_of(1)) as mine:
        assert mine


def test_a_disk_that_fills_up_ends_the_growth_and_a_full_one_is_told(tmp_path: Path) -> None:
    size = entry_bytes(image(0))
    spare = 30 * size
    store = Store(tmp_path / "grows", LIMIT, lambda: spare - (tmp_path / "grows" / "ring").stat().st_size)
    for number in range(100):
        keep(store, number)
    assert (tmp_path / "grows" / "ring").stat().st_size <= spare + size
    assert len(remaining(store, range(100))) >= 25
    with pytest.raises(OSError, match="nearly full"):
        keep(Store(tmp_path / "full", LIMIT, lambda: 0), 1)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, LIMIT)
    for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), image(1)[:, ::2]):
        with pytest.raises(ValueError, match="must be contiguous uint8"):
            store.write(key_of(1), wrong)


def test_all_files_are_the_users_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    keep(Store(folder, LIMIT), 1)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert {name: mode for name, mode in modes.items() if mode & 0o077} == {}


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "cache" / "ring").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        Store(tmp_path / "cache", LIMIT)
    assert (tmp_path / "precious").read_text() == "mine"
