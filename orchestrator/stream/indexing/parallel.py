"""Maps a function over many items at once, a few ahead of what is asked for, in the order in which they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items that are waiting or running per thread, or per CPU of a cluster."""


class Mapper(Protocol):
    """Yields the results of a function in the order in which they are done.

    When the function raises, or the caller stops asking, what has not begun is given up and what has begun is left to
    itself; so the function must do no harm when it is run again beside itself.
    """

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Map."""
        ...


@dataclass(frozen=True, slots=True)
class InThreads:
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
