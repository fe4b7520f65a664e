"""Goodput: what counts, what was lost, what was neither."""

import pytest

from orchestrator.track.analysis import StepTimes, TimeSpent, step_seconds


def test_goodput_is_the_share_of_steps_that_count() -> None:
    assert TimeSpent(productive_s=6, lost_s=1, downtime_s=5).goodput == 0.5
    assert TimeSpent(0, 0, 0).goodput == 0.0


def test_steps_done_again_are_lost_once() -> None:
    times = StepTimes()
    for step in range(10, 20):
        times.enter(step, 1.0)
    assert times.spent(16.0) == TimeSpent(10.0, 0.0, 6.0)
    times.enter(15, 2.0)
    assert times.spent(20.0) == TimeSpent(7.0, 5.0, 8.0)


def test_a_run_that_starts_over_earlier_loses_everything() -> None:
    times = StepTimes()
    for step in (4, 5, 2):
        times.enter(step, 1.0)
    assert times.spent(5.0) == TimeSpent(1.0, 2.0, 2.0)


def test_steps_that_nobody_knows_count_as_nothing() -> None:
    times = StepTimes()
    for step in (0, 7, 3):
        times.enter(step, 1.0)
    assert times.spent(4.0) == TimeSpent(2.0, 1.0, 1.0)


def test_clocks_that_disagree_give_no_more_than_everything() -> None:
    times = StepTimes()
    times.enter(0, 5.0)
    assert times.spent(1.0).goodput == 1.0


def test_saving_and_measuring_are_not_the_step() -> None:
    parts = {"data_wait": 0.1, "forward_backward": 0.4, "checkpoint": 9.0, "evaluation": 9.0, "startup": 9.0}
    assert step_seconds(parts) == pytest.approx(0.5)
