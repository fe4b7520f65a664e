"""Events: what was lost between the last step before a fault and the first one after it."""

from orchestrator.track.metric_log import Event
from orchestrator.train.recovery.diagnosis import Diagnosis, FailureKind, RetryBudget
from orchestrator.train.recovery.policy import AttemptFailure, AttemptStart, RecoveryEvents

LOST = AttemptFailure(Diagnosis(FailureKind.WORKER_LOST, RetryBudget.MACHINE_FAULTS, "killed\nat work"), 8)
PREEMPTED = AttemptFailure(Diagnosis(FailureKind.PREEMPTED, RetryBudget.PREEMPTIONS, "made room"), 8)


def begun(steps: int = 8) -> RecoveryEvents:
    events = RecoveryEvents()
    events.add_start(AttemptStart(1, 0, 2))
    for step in range(steps):
        assert events.add_step(step, 100.0 + step, 1.0) is None
    return events


def test_a_recovery_counts_steps_done_again_and_time_without_one() -> None:
    events = begun()
    events.add_failure(LOST)
    events.add_start(AttemptStart(2, 5, 1))
    found = events.add_step(5, 130.0, 2.0)
    assert found == Event("recovery", 5, "worker lost: killed", lost_steps=3, downtime_s=21.0, workers=1)
    assert events.add_step(6, 131.0, 1.0) is None


def test_a_preemption_that_saved_loses_nothing() -> None:
    events = begun()
    events.add_failure(PREEMPTED)
    events.add_start(AttemptStart(2, 8, 1))
    found = events.add_step(8, 120.0, 1.0)
    assert found is not None
    assert (found.kind, found.lost_steps) == ("preemption", 0)


def test_more_workers_without_a_fault_are_a_change_of_size() -> None:
    events = begun()
    events.add_start(AttemptStart(2, 8, 4))
    found = events.add_step(8, 112.0, 1.0)
    assert found == Event("resize", 8, "2 -> 4 workers", lost_steps=0, downtime_s=4.0, workers=4)


def test_of_two_faults_before_the_next_step_the_first_one_tells_why() -> None:
    events = begun()
    events.add_failure(LOST)
    events.add_start(AttemptStart(2, 5, 2))
    events.add_failure(PREEMPTED)
    events.add_start(AttemptStart(3, 5, 1))
    found = events.add_step(5, 140.0, 1.0)
    assert found is not None
    assert (found.kind, found.lost_steps, found.workers) == ("recovery", 3, 1)


def test_a_fault_before_the_first_step_loses_nothing() -> None:
    events = begun(steps=0)
    events.add_failure(LOST)
    events.add_start(AttemptStart(2, 0, 2))
    found = events.add_step(0, 50.0, 3.0)
    assert found is not None
    assert (found.lost_steps, found.downtime_s) == (0, 0.0)
