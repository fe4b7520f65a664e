"""What Ray Train's controller does about failures: whatever `Recovery` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import ControllerError

if TYPE_CHECKING:
    from ray.train.v2.api.exceptions import TrainingFailedError


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
