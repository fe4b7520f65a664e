"""Budgets: who may try again, how often, and what the run says when it may not."""

import pytest

from orchestrator.config.recipe import RecoverySection
from orchestrator.train.recovery.diagnosis import Diagnosis, FailureKind, RetryBudget
from orchestrator.train.recovery.policy import GiveUp, RetryCounts, decide_retry

LOST = Diagnosis(FailureKind.WORKER_LOST, RetryBudget.MACHINE_FAULTS, "killed")
PREEMPTED = Diagnosis(FailureKind.PREEMPTED, RetryBudget.PREEMPTIONS, "the cloud wants it")
WRONG = Diagnosis(FailureKind.USER_ERROR, RetryBudget.NONE, "ValueError: odd")


def test_a_fault_of_the_code_is_never_tried_again() -> None:
    found = decide_retry(
        WRONG, progressed=True, used=RetryCounts(machine_faults=2, preemptions=1), allowed=RecoverySection()
    )
    assert isinstance(found, GiveUp)
    assert (found.attempts, found.budget) == (4, "")


def test_machine_faults_have_a_budget_that_preemptions_leave_alone() -> None:
    allowed, spent = RecoverySection(machine_faults=2), RetryCounts()
    for diagnosis in (LOST, PREEMPTED, LOST):
        found = decide_retry(diagnosis, True, spent, allowed)
        assert isinstance(found, RetryCounts)
        spent = found
    assert spent == RetryCounts(machine_faults=2, preemptions=1, without_progress=1)
    found = decide_retry(LOST, True, spent, allowed)
    assert isinstance(found, GiveUp)
    assert (found.attempts, found.budget, found.allowed) == (4, "recovery.machine_faults", 2)


@pytest.mark.parametrize(("preemptions", "survives"), [(None, True), (5, True), (4, False), (0, False)])
def test_preemptions_are_free_unless_the_recipe_counts_them(preemptions: int | None, survives: bool) -> None:
    found = decide_retry(PREEMPTED, False, RetryCounts(preemptions=4), RecoverySection(preemptions=preemptions))
    assert isinstance(found, RetryCounts) is survives


def test_a_fault_that_comes_before_every_next_step_is_taken_for_one_of_the_code() -> None:
    allowed, spent = RecoverySection(without_progress=3), RetryCounts()
    for progressed in (True, False):
        found = decide_retry(LOST, progressed, spent, allowed)
        assert isinstance(found, RetryCounts)
        spent = found
    ended = decide_retry(LOST, False, spent, allowed)
    assert isinstance(ended, GiveUp)
    assert ended.budget == "recovery.without_progress"
    going_on = decide_retry(LOST, True, spent, allowed)
    assert isinstance(going_on, RetryCounts)
    assert going_on.without_progress == 1


def test_a_preemption_interrupts_a_row_of_faults() -> None:
    found = decide_retry(PREEMPTED, False, RetryCounts(machine_faults=2, without_progress=2), RecoverySection())
    assert isinstance(found, RetryCounts)
    assert found.without_progress == 0
