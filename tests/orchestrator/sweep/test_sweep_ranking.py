from __future__ import annotations

import math

import pytest

from orchestrator.sweep.folder import Point, TrialRecord, TrialStatus
from orchestrator.sweep.results import best, outcomes
from orchestrator.sweep.validate import assignment_text, short_keys, value_text


def record(number: int, *values: float, status: TrialStatus = "RUNNING", replica: int = 0) -> TrialRecord:
    points = (Point(10, values),) if values else ()
    return TrialRecord(number=number, replica=replica, assignment={}, status=status, points=points)


def test_replicas_count_together() -> None:
    records = [record(0, 1.0), record(0, 3.0, replica=1), record(1, 2.5)]
    assert outcomes(records) == {0: (2.0,), 1: (2.5,)}
    assert best(outcomes(records), ["min"]) == {0}
    assert best(outcomes(records), ["max"]) == {1}


def test_whole_trials_are_compared_with_whole_trials() -> None:
    records = [record(0, 0.9, status="STOPPED"), record(1, 0.5, status="FINISHED"), record(2, 0.7)]
    assert outcomes(records) == {1: (0.5,)}


@pytest.mark.parametrize("bad", [record(0, 9.0, status="FAILED"), record(0, math.nan), record(0)])
def test_what_failed_or_has_no_figure_never_counts(bad: TrialRecord) -> None:
    assert outcomes([bad, record(1, 1.0)]) == {1: (1.0,)}


def test_of_a_trade_off_all_that_no_other_beats() -> None:
    found = {0: (1.0, 1.0), 1: (0.5, 0.5), 2: (2.0, 0.9), 3: (1.0, 1.0), 4: (0.5, 2.0)}
    assert best(found, ["min", "max"]) == {4}
    assert best({0: (1.0, 1.0), 1: (0.5, 0.5), 2: (2.0, 0.9)}, ["min", "max"]) == {0, 1}
    assert best({}, ["min"]) == frozenset()


def test_values_and_keys_in_few_words() -> None:
    assert assignment_text({"distillation.alpha": 0.123456, "adversarial": {"steps": 2, "perturb": ["text"]}}) == (
        "distillation.alpha 0.123, adversarial {steps=2 perturb=[text]}"
    )
    assert assignment_text({}) == "the recipe as it is"
    assert [value_text(one) for one in (True, None, 3, 1e-5, "x")] == ["true", "null", "3", "1e-05", "x"]
    assert short_keys(["a.x", "b.x", "c.y", "x"]) == {"a.x": "a.x", "b.x": "b.x", "c.y": "y", "x": "x"}
