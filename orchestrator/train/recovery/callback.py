"""Recovery inside Ray Train's controller: its hooks, our decisions.

Ray Train restarts the workers; this says whether it should. Ray's own budgets are infinite, so that ours count. Knows
Ray Train's internal states, which `tests/e2e` hold it to.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ray
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from orchestrator.config.recipe import RecoverySection
from orchestrator.train.control_channel import WorkerCommand
from orchestrator.train.recovery.classify import diagnose_error
from orchestrator.train.recovery.failure_kind import FailureKind
from orchestrator.train.recovery.policy import Fault, GiveUp, Spent, decide

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.controller.state import TrainControllerState
    from ray.train.v2._internal.execution.scaling_policy import ResizeDecision
    from ray.train.v2._internal.execution.worker_group import WorkerGroup
    from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus


LEAVE_LIMIT_S = 600.0
"""How long workers may take to save before more of them take their place."""

SHRINK_LIMIT_S = 30.0
"""The same before fewer do: nothing is read for the present ones, so they may never come to the end of a step."""

LOOK_EVERY_S = 0.2


class Recovery(ControllerCallback, WorkerGroupCallback):
    """Decides about failed attempts, and has the workers save before they are taken away.

    Args:
        channel: the line to the driver and the workers.
        allowed: the recipe's section.
    """

    def __init__(self, channel: Any, allowed: RecoverySection) -> None:
        self._channel = channel
        self._allowed = allowed
        self._spent = Spent()
        self._reached = 0
        self._workers: int | None = None
        self._group: WorkerGroup | None = None
        self._asked_to_leave = False

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Take note of new workers."""
        self._workers, self._group = len(worker_group), worker_group
        self._asked_to_leave = False
        nodes = [worker.metadata.node_id for worker in worker_group.get_workers()]
        ray.get(self._channel.workers_started.remote(nodes))

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Have the workers save when one of their machines goes away; raise when no step is done for too long."""
        if worker_group_status.get_preemption_info() is not None:
            self._leave()
        quiet_s = ray.get(self._channel.quiet_s.remote())
        if quiet_s > self._allowed.hang_s:
            limit = f"recovery.hang_s allows {self._allowed.hang_s:g}"
            hung = WorkerHealthCheckTimeoutError(f"no step was done for {quiet_s:.0f} s; {limit}")
            raise WorkerGroupError(str(hung), dict.fromkeys(range(self._workers or 1), hung))

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        """Have the present workers save, so that a change of their number loses no step.

        Raises:
            GaveUp: they failed meanwhile, and there is to be no other attempt.
        """
        group, self._group = self._group, None
        if group is None:
            return
        self._leave()
        limit_s = LEAVE_LIMIT_S if resize_decision.num_workers >= (self._workers or 0) else SHRINK_LIMIT_S
        try:
            self._await_end(group, limit_s)
        except WorkerGroupError as error:
            self._ended_meanwhile(error)

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Decide about a failed attempt before Ray Train starts the next.

        Raises:
            GaveUp: there is to be none.
        """
        if previous_state is current_state or not isinstance(current_state, RestartingState | ReschedulingState):
            return
        error = current_state.training_failed_error
        if _lacks_machines(error):
            ray.get(self._channel.lacks_machines.remote())
        else:
            self._failed(error)

    def _leave(self) -> None:
        if not self._asked_to_leave:
            self._asked_to_leave = True
            ray.get(self._channel.request.remote(WorkerCommand.SAVE_AND_EXIT))

    def _await_end(self, group: WorkerGroup, limit_s: float) -> None:
        """Wait until the workers have left, or were at their last step anyway.

        Raises:
            WorkerGroupError: they have failed.
        """
        until_s = time.monotonic() + limit_s
        while time.monotonic() < until_s:
            if ray.get(self._channel.has_left.remote()) or _are_done(group):
                return
            time.sleep(LOOK_EVERY_S)

    def _ended_meanwhile(self, error: WorkerGroupError) -> None:
        """Enter the end of workers that were asked to leave, unless they did just that."""
        if diagnose_error(error, self._workers).kind is not FailureKind.PREEMPTED:
            self._failed(error)

    def _failed(self, error: TrainingFailedError) -> None:
        diagnosis = diagnose_error(error, self._workers)
        self._workers = self._group = None
        next_step = ray.get(self._channel.next_step.remote())
        progressed = next_step is not None and next_step > self._reached
        self._reached = max(self._reached, next_step or 0)
        decision = decide(diagnosis, progressed, self._spent, self._allowed)
        if isinstance(decision, GiveUp):
            ray.get(self._channel.fault.remote(Fault(diagnosis, next_step, decision.tries)))
            raise GaveUp(diagnosis.error)
        self._spent = decision.spent
        ray.get(self._channel.fault.remote(Fault(diagnosis, next_step)))


def _are_done(group: WorkerGroup) -> bool:
    """Return whether all workers have come to their end.

    Raises:
        WorkerGroupError: some have failed.
    """
    status = group.poll_status(timeout=LOOK_EVERY_S)
    if status.errors:
        raise status.get_worker_group_error()
    return bool(status.finished)


def _lacks_machines(error: TrainingFailedError) -> bool:
    """Return whether workers could not be placed; that costs nothing but time, and is tried again."""
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


# What Ray Train's controller does about failures: whatever `Recovery` says.


class GaveUp(Exception):
    """Ends the controller's attempts; the channel knows why."""


class AlwaysRetry(DefaultFailurePolicy):
    """Tries again after every failure until `Recovery` gives up.

    Ray Train itself takes every error at the start of workers for final that is not the death of one. But when one
    dies there, another may be the first to tell, with a broken connection.
    """

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Decide, after Ray Train has logged the failure."""
        super().make_decision(training_failed_error)
        gave_up = isinstance(training_failed_error, ControllerError) and isinstance(
            training_failed_error.controller_failure, GaveUp
        )
        return FailureDecision.RAISE if gave_up else FailureDecision.RETRY
