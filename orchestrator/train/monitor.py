"""The driver while the workers train: it enters what they report, and hands down that they are to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

import ray

from orchestrator.train.budget import Spending
from orchestrator.train.control_channel import WorkerCommand
from orchestrator.train.run_logger import RunLogger
from orchestrator.train.worker import Assignment

POLL_S = 0.2
LOOK_EVERY_POLLS = 25
"""Looks at the workers for each look at the machines."""


class MachineWatch(Protocol):
    """Looks after the machines that matter to a run, and drains those that will be taken away."""

    def refresh(self, nodes: Collection[str]) -> tuple[str, ...]:
        """Look after these nodes, by id, and no others; return messages for people."""
        ...

    def stop(self) -> None:
        """End."""
        ...


class RunMonitor:
    """Watches one start of a run until it ends.

    Args:
        assignment: what the workers were told.
        books: take what they report.
        spending: says when the budget is used up.
        machines: looks for notices of preemption; None when nobody in this run does.
        interrupted: set when the user wants the run to stop.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        assignment: Assignment,
        books: RunLogger,
        spending: Spending,
        machines: MachineWatch | None,
        interrupted: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._assignment = assignment
        self._books = books
        self._spending = spending
        self._machines = machines
        self._interrupted = interrupted
        self._clock = clock
        self._prefetched = assignment.prefetched
        self._used_up_s: float | None = None

    def run(self, fit: Callable[[], object]) -> None:
        """Run Ray Train in a thread, so that this one can watch; Ray's own interrupt handler would drop the checkpoint.

        Args:
            fit: trains; what it raises is raised here.
        """
        failure: list[BaseException] = []

        def train() -> None:
            try:
                fit()
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=train, name="ray-train", daemon=True)
        thread.start()
        polls = 0
        while thread.is_alive() and not self._overdue():
            thread.join(POLL_S)
            if polls % LOOK_EVERY_POLLS == 0:
                self._look()
            polls += 1
            if self._interrupted.is_set() or self._used_up_s is not None:
                self._assignment.channel.request.remote(WorkerCommand.STOP)
            self._enter_news()
        self._enter_news()
        if failure:
            raise failure[0]

    def _look(self) -> None:
        if self._spending.used_up() and self._used_up_s is None:
            self._used_up_s = self._clock()
        if self._machines is not None:
            with_workers = ray.get(self._assignment.channel.worker_nodes.remote())
            here = ray.get_runtime_context().get_node_id()
            self._books.enter(self._machines.refresh({*with_workers, here}))

    def _overdue(self) -> bool:
        """Return whether the workers have not stopped in spite of the budget, for want of machines or as they hang."""
        limit_s = self._assignment.plan.recipe.recovery.hang_s
        return self._used_up_s is not None and self._clock() - self._used_up_s > limit_s

    def _enter_news(self) -> None:
        self._books.enter(ray.get(self._assignment.channel.drain.remote()))
        if self._books.attempts > 1 and self._prefetched is not None:
            self._prefetched.shutdown()
            self._prefetched = None
