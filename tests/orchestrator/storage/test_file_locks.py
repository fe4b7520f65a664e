"""Exclusive file locks exclude threads and processes, and end with their holder's body, whoever has forked."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.storage.local_files import try_lock


def _taken(path: Path) -> bool:
    """Return whether another thread can take the lock now."""

    def attempt() -> bool:
        with try_lock(path) as acquired:
            return acquired

    with ThreadPoolExecutor(1) as pool:
        return not pool.submit(attempt).result()


def test_a_lock_is_held_during_the_body_alone(tmp_path: Path) -> None:
    with try_lock(tmp_path / "lock") as acquired:
        assert acquired
        assert _taken(tmp_path / "lock")
    assert not _taken(tmp_path / "lock")


def test_a_child_forked_meanwhile_neither_keeps_nor_ends_a_lock(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ended, quick = fork.Event(), fork.Event()
    with try_lock(tmp_path / "lock"):
        first, second = fork.Process(target=ended.wait, daemon=True), fork.Process(target=quick.set, daemon=True)
        first.start()
        second.start()
        second.join()
        assert _taken(tmp_path / "lock")
    assert not _taken(tmp_path / "lock")
    ended.set()
    first.join()
    assert (first.exitcode, second.exitcode) == (0, 0)
