"""Ray Train tries again after every failure, and stops when `RecoveryCallback` gives up."""

import pytest
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from orchestrator.train.recovery.callback import AlwaysRetry, RetriesExhausted

EVERY_FAILURE = [
    WorkerGroupError("gone", {0: RuntimeError("gone")}),
    ControllerError(WorkerGroupStartupTimeoutError(num_workers=2)),
    ControllerError(ConnectionResetError("another worker died while they started")),
]


@pytest.mark.parametrize("error", EVERY_FAILURE, ids=lambda error: type(error).__name__)
def test_a_failure_is_not_the_end(error: TrainingFailedError) -> None:
    policy = AlwaysRetry(FailureConfig(max_failures=0, controller_failure_limit=0))
    assert policy.make_decision(error) is FailureDecision.RETRY


def test_giving_up_is() -> None:
    policy = AlwaysRetry(FailureConfig(max_failures=-1, controller_failure_limit=-1))
    assert policy.make_decision(ControllerError(RetriesExhausted("no budget is left"))) is FailureDecision.RAISE
