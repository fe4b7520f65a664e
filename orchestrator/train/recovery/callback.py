"""Recovery inside Ray Train's controller: a callback that decides about retries, and the failure policy that obeys it.

Ray Train restarts the workers; `RecoveryCallback` decides whether it should. Ray Train's own budgets are infinite, so
that the recipe's count. `ray_internals` lists what is used of Ray Train's own; `tests/e2e` fail when it changes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import ray
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from orchestrator.config.recipe import RecoverySection
from orchestrator.train.control_channel import WorkerCommand
from orchestrator.train.recovery.classify import diagnose_error
from orchestrator.train.recovery.diagnosis import FailureKind
from orchestrator.train.recovery.policy import AttemptFailure, GiveUp, RetryCounts, decide_retry
from orchestrator.train.recovery.ray_internals import (
    ControllerCallback,
    DefaultFailurePolicy,
    FailureDecision,
    ReschedulingState,
    RestartingState,
    WorkerGroupCallback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckTimeoutError,
)

if TYPE_CHECKING:
    from orchestrator.train.recovery.ray_internals import (
        ResizeDecision,
        TrainControllerState,
        WorkerGroup,
        WorkerGroupPollStatus,
    )


GROW_TIMEOUT_S = 600.0
"""How long workers may take to save before more workers replace them."""

SHRINK_TIMEOUT_S = 30.0
"""The same before fewer replace them: no data is read for the present ones, so they may never finish a step."""

POLL_EVERY_S = 0.2


class RecoveryCallback(ControllerCallback, WorkerGroupCallback):
    """Decides whether failed attempts are retried, and has the workers save before they are replaced.

    Args:
        channel: the control channel, an actor.
        allowed: the recipe's section.
    """

    def __init__(self, channel: Any, allowed: RecoverySection) -> None:
        self._channel = channel
        self._allowed = allowed
        self._used = RetryCounts()
        self._farthest_step = 0
        self._workers: int | None = None
        self._group: WorkerGroup | None = None
        self._draining = False

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Report the new workers to the channel."""
        self._workers, self._group = len(worker_group), worker_group
        self._draining = False
        nodes = [worker.metadata.node_id for worker in worker_group.get_workers()]
        ray.get(self._channel.workers_started.remote(nodes))

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Have the workers save when one of their nodes is preempted.

        Raises:
            WorkerGroupError: no step was done for longer than recovery.hang_s.
        """
        if worker_group_status.get_preemption_info() is not None:
            self._drain()
        stalled_s = ray.get(self._channel.stalled_s.remote())
        if stalled_s > self._allowed.hang_s:
            limit = f"recovery.hang_s allows {self._allowed.hang_s:g}"
            hung = WorkerHealthCheckTimeoutError(f"no step was done for {stalled_s:.0f} s; {limit}")
            raise WorkerGroupError(str(hung), dict.fromkeys(range(self._workers or 1), hung))

    def before_controller_execute_resize_decision(self, resize_decision: ResizeDecision) -> None:
        """Have the present workers save, so that a resize loses no step.

        Raises:
            RetriesExhausted: they failed meanwhile, and are not tried again.
        """
        group, self._group = self._group, None
        if group is None:
            return
        self._drain()
        grows = resize_decision.num_workers >= (self._workers or 0)
        try:
            self._wait_for_drain(group, GROW_TIMEOUT_S if grows else SHRINK_TIMEOUT_S)
        except WorkerGroupError as error:
            self._failed_while_draining(error)

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Decide about a failed attempt before Ray Train starts the next one.

        Raises:
            RetriesExhausted: there is no next one.
        """
        if previous_state is current_state or not isinstance(current_state, RestartingState | ReschedulingState):
            return
        error = current_state.training_failed_error
        if _has_no_room(error):
            ray.get(self._channel.report_no_room.remote())
        else:
            self._failed(error)

    def _drain(self) -> None:
        if not self._draining:
            self._draining = True
            ray.get(self._channel.request.remote(WorkerCommand.SAVE_AND_EXIT))

    def _wait_for_drain(self, group: WorkerGroup, timeout_s: float) -> None:
        """Wait until the workers have saved and exited, or have finished their last step anyway.

        Raises:
            WorkerGroupError: they have failed.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            if ray.get(self._channel.are_drained.remote()) or _are_done(group):
                return
            time.sleep(POLL_EVERY_S)

    def _failed_while_draining(self, error: WorkerGroupError) -> None:
        """Decide about workers that ended while draining, unless they ended because they drained."""
        if diagnose_error(error, self._workers).kind is not FailureKind.PREEMPTED:
            self._failed(error)

    def _failed(self, error: TrainingFailedError) -> None:
        diagnosis = diagnose_error(error, self._workers)
        self._workers = self._group = None
        next_step = ray.get(self._channel.next_step.remote())
        progressed = next_step is not None and next_step > self._farthest_step
        self._farthest_step = max(self._farthest_step, next_step or 0)
        decision = decide_retry(diagnosis, progressed, self._used, self._allowed)
        if isinstance(decision, GiveUp):
            ray.get(self._channel.attempt_failed.remote(AttemptFailure(diagnosis, next_step, decision)))
            raise RetriesExhausted(diagnosis.error)
        self._used = decision
        ray.get(self._channel.attempt_failed.remote(AttemptFailure(diagnosis, next_step)))


def _are_done(group: WorkerGroup) -> bool:
    """Return whether all workers have finished.

    Raises:
        WorkerGroupError: some have failed.
    """
    status = group.poll_status(timeout=POLL_EVERY_S)
    if status.errors:
        raise status.get_worker_group_error()
    return bool(status.finished)


def _has_no_room(error: TrainingFailedError) -> bool:
    """Return whether workers could not be placed; that is retried without limit."""
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


class RetriesExhausted(Exception):
    """Ends the controller's attempts; the reason was reported to the channel."""


class AlwaysRetry(DefaultFailurePolicy):
    """Retries after every failure until `RecoveryCallback` gives up.

    Ray Train's own policy treats every error at the start of workers as final unless a worker died. But when a worker
    dies there, the first error reported may be another worker's broken connection.
    """

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Return the decision, after Ray Train has logged the failure."""
        super().make_decision(training_failed_error)
        gave_up = isinstance(training_failed_error, ControllerError) and isinstance(
            training_failed_error.controller_failure, RetriesExhausted
        )
        return FailureDecision.RAISE if gave_up else FailureDecision.RETRY
