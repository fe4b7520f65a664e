"""Work shared out over processes that end with the process that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import active_children, connection, get_context, parent_process

from orchestrator.config.errors import FuserayError
from orchestrator.stream.indexing.parallel import AHEAD, Item, Result


class WorkerError(FuserayError):
    """A worker process ended without saying why."""


@dataclass(frozen=True, slots=True)
class InProcesses:
    """A `Mapper` by processes of this machine: for work that keeps a CPU busy.

    When the caller stops asking, what is being worked on is given up at once.

    Args:
        workers: how many; with one, the work is done in this process.
    """

    workers: int

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map; the function is importable by its name, and items and results travel pickled.

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
                f"one of {self.workers} worker processes died, most often for want of memory; use fewer --workers."
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
    """Leave Ctrl-C to the parent, and end when it ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="follow-parent").start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
