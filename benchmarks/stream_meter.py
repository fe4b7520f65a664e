"""Measures a loader: rate, waits, memory of the object store, CPU time of the whole process tree."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil
from stream_setting import Loader, Setting, Stream

LOOK_EVERY_S = 1.0
"""More often would take a tenth of a core from what is measured."""
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
    with loader(setting) as start, _watched() as watch:
        stream = _timed(start, setting.train_s)
        warm_up = _until(stream, WARM_UP_SHARE * setting.total)
        cpu_before = watch.cpu_seconds()
        steady = list(stream)
        cpu = watch.cpu_seconds() - cpu_before
    samples, arrivals = sum(arrival.samples for arrival in steady), warm_up + steady
    waits = [arrival.wait_s for arrival in steady]
    return {
        "delivered": sum(arrival.samples for arrival in arrivals),
        "samples_per_s": samples / (steady[-1].at_s - warm_up[-1].at_s),
        "first_batch_s": arrivals[0].wait_s,
        "warm_up_wait_s": sum(arrival.wait_s for arrival in warm_up[1:]),
        "wait_p50_s": float(np.percentile(waits, 50)),
        "wait_p99_s": float(np.percentile(waits, 99)),
        "epoch_gap_s": _epoch_gap(arrivals, setting.samples),
        "object_store_peak_bytes": watch.store_peak_bytes,
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


class Watch:
    """Looks at this process, its children of any degree and Ray's object store, time and again.

    Attributes:
        store_peak_bytes: most bytes taken in the object store; None without Ray.
    """

    def __init__(self) -> None:
        self.store_peak_bytes: float | None = None
        self._cpu_seconds: dict[psutil.Process, float] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes so far, those that ended as they were seen last."""
        me = psutil.Process()
        with self._lock:
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.Error):  # it ended between the listing and now
                    times = process.cpu_times()
                    self._cpu_seconds[process] = times.user + times.system
            return sum(self._cpu_seconds.values())

    def run(self) -> None:
        """Look until `end` is called, and once at least."""
        ray = sys.modules.get("ray")
        while True:
            self.cpu_seconds()
            if ray is not None and ray.is_initialized():
                self.store_peak_bytes = max(self.store_peak_bytes or 0.0, _store_bytes(ray))
            if self._over.wait(LOOK_EVERY_S):
                return

    def end(self) -> None:
        """Stop looking."""
        self._over.set()


def _store_bytes(ray: Any) -> float:
    key = "object_store_memory"
    return float(ray.cluster_resources()[key] - ray.available_resources().get(key, 0.0))


@contextmanager
def _watched() -> Iterator[Watch]:
    watch = Watch()
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join()
