from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from multiprocessing import active_children
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.stream.shards.executors import ProcessMapper, WorkerError


def square(number: int) -> int:
    return number * number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    raise ValueError(f"no {number}")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_once(workers: int) -> None:
    assert sorted(ProcessMapper(workers)(square, range(20))) == [number**2 for number in range(20)]
    assert active_children() == []


def test_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def items() -> Generator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = cast("Generator[Any]", ProcessMapper(2)(square, items()))
    next(results)
    results.close()
    assert len(taken) < 20
    assert active_children() == []


def test_a_dead_worker_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(WorkerError, match="one of 2 worker processes died"):
        list(ProcessMapper(2)(die, range(10)))
    assert active_children() == []


def test_errors_of_the_function_arrive() -> None:
    with pytest.raises(ValueError, match="no 1"):
        list(ProcessMapper(2)(refuse, [1]))


PARENT = """
import multiprocessing, os, signal, sys, time
from orchestrator.stream.shards.executors import ProcessMapper

if __name__ == "__main__":
    results = ProcessMapper(2)(abs, iter(range(1000)))
    next(results)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def has_ended(process: int, within_s: float) -> bool:
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(within_s * 1000))


@pytest.mark.skipif(sys.platform != "linux", reason="needs file descriptors of processes")
def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    workers = [int(word) for word in done.stdout.split()]
    assert len(workers) == 2
    assert all(has_ended(worker, within_s=120) for worker in workers)
