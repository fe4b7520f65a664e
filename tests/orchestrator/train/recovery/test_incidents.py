"""Events: what was lost between the last step before a fault and the first one after it."""

from orchestrator.track.metric_log import Event
from orchestrator.train.recovery.failure_kind import Budget, Diagnosis, FailureKind
from orchestrator.train.recovery.policy import Attempt, Fault, Incidents

LOST = Fault(Diagnosis(FailureKind.WORKER_LOST, Budget.MACHINE_FAULTS, "killed\nat work"), 8)
PREEMPTED = Fault(Diagnosis(FailureKind.PREEMPTED, Budget.PREEMPTIONS, "made room"), 8)


def begun(steps: int = 8) -> Incidents:
    incidents = Incidents()
    incidents.attempt(Attempt(1, 0, 2))
    for step in range(steps):
        assert incidents.step(step, 100.0 + step, 1.0) is None
    return incidents


def test_a_recovery_counts_steps_done_again_and_time_without_one() -> None:
    incidents = begun()
    incidents.fault(LOST)
    incidents.attempt(Attempt(2, 5, 1))
    found = incidents.step(5, 130.0, 2.0)
    assert found == Event("recovery", 5, "worker lost: killed", lost_steps=3, downtime_s=21.0, workers=1)
    assert incidents.step(6, 131.0, 1.0) is None


def test_a_preemption_that_saved_loses_nothing() -> None:
    incidents = begun()
    incidents.fault(PREEMPTED)
    incidents.attempt(Attempt(2, 8, 1))
    found = incidents.step(8, 120.0, 1.0)
    assert found is not None
    assert (found.kind, found.lost_steps) == ("preemption", 0)


def test_more_workers_without_a_fault_are_a_change_of_size() -> None:
    incidents = begun()
    incidents.attempt(Attempt(2, 8, 4))
    found = incidents.step(8, 112.0, 1.0)
    assert found == Event("resize", 8, "2 -> 4 workers", lost_steps=0, downtime_s=4.0, workers=4)


def test_of_two_faults_before_the_next_step_the_first_one_tells_why() -> None:
    incidents = begun()
    incidents.fault(LOST)
    incidents.attempt(Attempt(2, 5, 2))
    incidents.fault(PREEMPTED)
    incidents.attempt(Attempt(3, 5, 1))
    found = incidents.step(5, 140.0, 1.0)
    assert found is not None
    assert (found.kind, found.lost_steps, found.workers) == ("recovery", 3, 1)


def test_a_fault_before_the_first_step_loses_nothing() -> None:
    incidents = begun(steps=0)
    incidents.fault(LOST)
    incidents.attempt(Attempt(2, 0, 2))
    found = incidents.step(0, 50.0, 3.0)
    assert found is not None
    assert (found.lost_steps, found.downtime_s) == (0, 0.0)
