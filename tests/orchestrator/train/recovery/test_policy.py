"""Budgets: who may try again, how often, and what the run says when it may not."""

import pytest

from orchestrator.config.recipe import RecoverySection
from orchestrator.train.recovery.failure_kind import Budget, Diagnosis, FailureKind
from orchestrator.train.recovery.policy import GiveUp, Spent, TryAgain, decide

LOST = Diagnosis(FailureKind.WORKER_LOST, Budget.MACHINE_FAULTS, "killed")
PREEMPTED = Diagnosis(FailureKind.PREEMPTED, Budget.PREEMPTIONS, "the cloud wants it")
WRONG = Diagnosis(FailureKind.USER_ERROR, Budget.NONE, "ValueError: odd")


def test_a_fault_of_the_code_is_never_tried_again() -> None:
    found = decide(WRONG, progressed=True, spent=Spent(machine_faults=2, preemptions=1), allowed=RecoverySection())
    assert isinstance(found, GiveUp)
    assert (found.tries.attempts, found.tries.budget) == (4, "")


def test_machine_faults_have_a_budget_that_preemptions_leave_alone() -> None:
    allowed, spent = RecoverySection(machine_faults=2), Spent()
    for diagnosis in (LOST, PREEMPTED, LOST):
        found = decide(diagnosis, True, spent, allowed)
        assert isinstance(found, TryAgain)
        spent = found.spent
    assert spent == Spent(machine_faults=2, preemptions=1, without_progress=1)
    found = decide(LOST, True, spent, allowed)
    assert isinstance(found, GiveUp)
    assert (found.tries.attempts, found.tries.budget, found.tries.allowed) == (4, "recovery.machine_faults", 2)


@pytest.mark.parametrize(("preemptions", "survives"), [(None, True), (5, True), (4, False), (0, False)])
def test_preemptions_are_free_unless_the_recipe_counts_them(preemptions: int | None, survives: bool) -> None:
    found = decide(PREEMPTED, False, Spent(preemptions=4), RecoverySection(preemptions=preemptions))
    assert isinstance(found, TryAgain) is survives


def test_a_fault_that_comes_before_every_next_step_is_taken_for_one_of_the_code() -> None:
    allowed, spent = RecoverySection(without_progress=3), Spent()
    for progressed in (True, False):
        found = decide(LOST, progressed, spent, allowed)
        assert isinstance(found, TryAgain)
        spent = found.spent
    ended = decide(LOST, False, spent, allowed)
    assert isinstance(ended, GiveUp)
    assert ended.tries.budget == "recovery.without_progress"
    going_on = decide(LOST, True, spent, allowed)
    assert isinstance(going_on, TryAgain)
    assert going_on.spent.without_progress == 1


def test_a_preemption_interrupts_a_row_of_faults() -> None:
    found = decide(PREEMPTED, False, Spent(machine_faults=2, without_progress=2), RecoverySection())
    assert isinstance(found, TryAgain)
    assert found.spent.without_progress == 0
