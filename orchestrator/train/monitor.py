"""The driver's loop while the workers train: it logs what they report, and sends them the command to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import Protocol

import ray

from orchestrator.train.budget import BudgetMonitor
from orchestrator.train.control_channel import Assignment, WorkerCommand
from orchestrator.train.evaluation.beside import BesideEvaluation
from orchestrator.train.run_logger import RunLogger

POLL_S = 0.2
BESIDE_EVERY_POLLS = 5
CHECK_EVERY_POLLS = 25
"""Polls of the workers for each check of machines and budget."""


class MachineWatch(Protocol):
    """Watches the nodes of a run for preemption notices, and drains those that will be preempted."""

    def refresh(self, nodes: Collection[str]) -> tuple[str, ...]:
        """Watch these nodes, by id, and no others; return messages for the user."""
        ...

    def stop(self) -> None:
        """Stop watching."""
        ...


class RunMonitor:
    """Watches one start of a run until it ends.

    Args:
        assignment: what the workers were passed.
        logger: logs what they report.
        budget: says when the budget is used up.
        machines: watches for preemption notices; None when this run has none.
        interrupted: set when the user stops the run.
        check_lease: raises when another driver took the run over.
        beside: has checkpoints measured meanwhile; None when nothing is measured beside the training.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        assignment: Assignment,
        logger: RunLogger,
        budget: BudgetMonitor,
        machines: MachineWatch | None,
        interrupted: threading.Event,
        check_lease: Callable[[], None],
        beside: BesideEvaluation | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._assignment = assignment
        self._logger = logger
        self._budget = budget
        self._machines = machines
        self._interrupted = interrupted
        self._check_lease = check_lease
        self._beside = beside
        self._clock = clock
        self._prefetched = assignment.prefetched
        self._used_up_s: float | None = None

    def run(self, fit: Callable[[], object]) -> None:
        """Run Ray Train in a thread, so that this one can watch; Ray's own interrupt handler would drop the checkpoint.

        Args:
            fit: trains; what it raises is raised here.

        Raises:
            LeaseError: another driver took the run over; the workers still run.
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
            self._check_lease()
            if polls % CHECK_EVERY_POLLS == 0:
                self._check_budget_and_machines()
            if self._beside is not None and polls % BESIDE_EVERY_POLLS == 0:
                self._beside.poll()
            polls += 1
            if self._interrupted.is_set() or self._used_up_s is not None:
                self._assignment.channel.request.remote(WorkerCommand.STOP)
            self._log_messages()
        self._log_messages()
        if failure:
            raise failure[0]
        if self._beside is not None and not self._interrupted.is_set() and self._used_up_s is None:
            self._beside.finish()

    def _check_budget_and_machines(self) -> None:
        if self._budget.used_up() and self._used_up_s is None:
            self._used_up_s = self._clock()
        if self._machines is not None:
            worker_nodes = ray.get(self._assignment.channel.worker_nodes.remote())
            own_node = ray.get_runtime_context().get_node_id()
            self._logger.log_messages(self._machines.refresh({*worker_nodes, own_node}))

    def _overdue(self) -> bool:
        """Return whether workers have not stopped in time after the budget ran out: unplaced or hanging workers."""
        timeout_s = self._assignment.plan.recipe.recovery.hang_s
        return self._used_up_s is not None and self._clock() - self._used_up_s > timeout_s

    def _log_messages(self) -> None:
        self._logger.log_messages(ray.get(self._assignment.channel.take_messages.remote()))
        if self._logger.attempts > 1 and self._prefetched is not None:
            self._prefetched.shutdown()
            self._prefetched = None
