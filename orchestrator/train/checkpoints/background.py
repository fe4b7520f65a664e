"""One thing at a time, done beside the training loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Runs a job in a thread that does not keep the process alive; `wait` hands over what came of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: Future[Result] | None = None

    @property
    def idle(self) -> bool:
        """Whether no job is running."""
        return self._running is None or self._running.done()

    def start(self, job: Callable[[], Result]) -> None:
        """Start a job; the one before it must have been waited for."""
        if self._running is not None:
            raise RuntimeError("the job before was not waited for")
        self._running = future = Future[Result]()

        def run() -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=self._name, daemon=True).start()

    def take(self) -> Result | None:
        """Return the result of a job that is done and did not fail, once; None otherwise."""
        if self._running is None or not self._running.done() or self._running.exception() is not None:
            return None
        return self.wait()

    def wait(self) -> Result | None:
        """Wait for the job and return its result, once; None when there is no job.

        Raises:
            Exception: what the job raised.
        """
        if self._running is None:
            return None
        future = self._running
        future.exception()
        self._running = None
        return future.result()
