"""Measures a loader: rate, waits, memory of the object store, CPU time of the whole process tree."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil
from stream_setting import Loader, Setting, Stream

LOOK_EVERY_S = 0.1
WARM_UP_SHARE = 0.25
"""Share of the micro-batches before rate and CPU time count: by then what was read ahead is used up."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One micro-batch: how many samples, after which wait, and when."""

    samples: int
    wait_s: float
    at_s: float


def measure(loader: Loader, setting: Setting) -> dict[str, Any]:
    """Run a loader through all epochs and return its figures."""
    with loader(setting) as start, _store_watched() as peak:
        stream = _timed(start, setting.train_s)
        warm_up = _until(stream, WARM_UP_SHARE * setting.total)
        cpu_before = tree_cpu_seconds()
        steady = list(stream)
        cpu = tree_cpu_seconds() - cpu_before
    samples, arrivals = sum(arrival.samples for arrival in steady), warm_up + steady
    waits = [arrival.wait_s for arrival in arrivals[1:]]
    return {
        "delivered": sum(arrival.samples for arrival in arrivals),
        "samples_per_s": samples / (steady[-1].at_s - warm_up[-1].at_s),
        "first_batch_s": arrivals[0].wait_s,
        "wait_p50_s": float(np.percentile(waits, 50)),
        "wait_p99_s": float(np.percentile(waits, 99)),
        "epoch_gap_s": _epoch_gap(arrivals, setting.samples),
        "object_store_peak_bytes": max(peak, default=None),
        "cpu_s_per_1000": 1000 * cpu / samples,
    }


def _timed(start: Callable[[], Stream], train_s: float) -> Iterator[Arrival]:
    began = perf_counter()
    for samples in start():
        now = perf_counter()
        yield Arrival(samples, now - began, now)
        sleep(train_s)
        began = perf_counter()


def _until(stream: Iterator[Arrival], samples: float) -> list[Arrival]:
    arrivals: list[Arrival] = []
    while sum(arrival.samples for arrival in arrivals) < samples:
        arrivals.append(next(stream))
    return arrivals


def _epoch_gap(arrivals: list[Arrival], epoch: int) -> float | None:
    """Return the longest wait for a micro-batch that holds the first sample of an epoch but the first."""
    ends = np.cumsum([arrival.samples for arrival in arrivals])
    starts = np.flatnonzero(np.diff((ends - 1) // epoch)) + 1
    return max((arrivals[at].wait_s for at in starts), default=None)


def tree_cpu_seconds() -> float:
    """Return the CPU seconds that this process, its children of any degree and those that ended have used."""
    me = psutil.Process()
    return sum(_cpu_seconds(process) for process in [me, *me.children(recursive=True)])


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it ended between the listing and now
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


@contextmanager
def _store_watched() -> Iterator[list[float]]:
    """Collect how many bytes of Ray's object store are taken, ten times a second; nothing without Ray."""
    taken: list[float] = []
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(taken, over), daemon=True)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        watch.start()
    try:
        yield taken
    finally:
        over.set()
        if watch.ident:
            watch.join()


def _watch(taken: list[float], over: threading.Event) -> None:
    import ray

    key = "object_store_memory"
    size = ray.cluster_resources()[key]
    while not over.wait(LOOK_EVERY_S):
        taken.append(size - ray.available_resources().get(key, 0.0))
