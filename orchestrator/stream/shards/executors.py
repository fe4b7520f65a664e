"""Mappers: run a function over many items in threads, processes or Ray tasks; results come as they are finished."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import active_children, connection, get_context, parent_process
from typing import Protocol, TypeVar

import ray
from ray.exceptions import RayTaskError

from orchestrator.config.errors import FuserayError
from orchestrator.stream.dataset.index import DataSetError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items in flight per thread, process or CPU of a cluster."""


class Mapper(Protocol):
    """Yields the results of a function in the order in which they are finished.

    When the function raises, or the caller stops iterating, items that have not begun are cancelled, and running ones
    may continue; so the function must tolerate running again at the same time.
    """

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map."""
        ...


@dataclass(frozen=True, slots=True)
class ThreadMapper:
    """Maps in threads of this process: for work that waits for storage."""

    threads: int

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map."""
        pool = ThreadPoolExecutor(self.threads)
        running: set[Future[Result]] = set()
        try:
            for item in items:
                running.add(pool.submit(function, item))
                if len(running) >= AHEAD * self.threads:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class RayTaskMapper:
    """Maps in Ray tasks of one CPU each, on all nodes; Ray must be connected, and all arguments and results pickle."""

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map.

        Raises:
            DataSetError: the cluster has no CPU for a task.
        """
        limit = AHEAD * _cpus()
        task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", max_retries=3)(function)
        running: list[ray.ObjectRef[Result]] = []
        try:
            for item in items:
                running.append(task.remote(item))
                if len(running) >= limit:
                    done, running = ray.wait(running)
                    yield from map(_result, done)
            while running:
                done, running = ray.wait(running)
                yield from map(_result, done)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _result(reference: ray.ObjectRef[Result]) -> Result:
    try:
        result: Result = ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, FuserayError):
            raise error.cause from error
        raise
    return result


def _cpus() -> int:
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < 1:
        raise DataSetError("the Ray cluster has no CPU for reading shards; add a node with CPUs, or leave out --ray.")
    return cpus


class WorkerError(FuserayError):
    """A worker process died without an exception."""


@dataclass(frozen=True, slots=True)
class ProcessMapper:
    """Maps in processes of this machine: for CPU-bound work. The processes end with this one.

    When the caller stops iterating, running items are killed.

    Args:
        workers: number of processes; with one, the function runs in this process.
    """

    workers: int

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map; the function must be importable by name, and items and results must pickle.

        Raises:
            WorkerError: a worker died.
        """
        if self.workers == 1:
            yield from map(function, items)
            return
        others = set(active_children())
        pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=_follow_parent)
        try:
            yield from _results(pool, function, iter(items), AHEAD * self.workers)
        except BrokenProcessPool as error:
            raise WorkerError(
                f"one of {self.workers} worker processes died, most often for lack of memory; use fewer --workers."
            ) from error
        finally:
            for process in set(active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, function: Callable[[Item], Result], items: Iterator[Item], queued: int
) -> Iterator[Result]:
    pending = {pool.submit(function, item) for item in islice(items, queued)}
    while pending:
        done: set[Future[Result]]
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        pending |= {pool.submit(function, item) for item in islice(items, len(done))}
        for future in done:
            yield future.result()


def _follow_parent() -> None:
    """Ignore Ctrl-C, which the parent handles, and exit when the parent exits for any reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True, name="follow-parent").start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
