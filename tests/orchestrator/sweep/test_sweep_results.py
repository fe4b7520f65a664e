"""Configurations of a sweep over their replicas, and which of them are best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

import pytest

from orchestrator.sweep.folder import Point, TrialRecord, TrialStatus
from orchestrator.sweep.results import (
    Configuration,
    best,
    best_replica,
    comparable,
    compared_at,
    group_by_configuration,
    outcomes,
    select_best,
)
from orchestrator.sweep.validate import assignment_text, short_keys, value_text


def record(
    number: int,
    values: Sequence[float | tuple[float, ...]],
    status: TrialStatus = "FINISHED",
    replica: int = 0,
) -> TrialRecord:
    """A trial that reported after 100, 200 ... samples."""
    points = tuple(
        Point(100 * (at + 1), value if isinstance(value, tuple) else (value,)) for at, value in enumerate(values)
    )
    return TrialRecord(number=number, replica=replica, assignment={"x": number}, status=status, points=points)


def put_together(*records: TrialRecord, replicas: int = 1, going_on: bool = False) -> tuple[Configuration, ...]:
    return group_by_configuration(records, replicas, going_on)


def test_a_score_is_the_mean_over_replicas_with_the_sample_standard_deviation() -> None:
    (one,) = put_together(
        *(record(4, [9.0, value], replica=at) for at, value in enumerate((1.0, 2.0, 6.0))), replicas=3
    )
    (score,) = one.scores
    assert (one.outcome, one.samples, score.mean) == ("whole", 200, 3.0)
    assert score.spread == pytest.approx(stdev([1.0, 2.0, 6.0]))


def test_one_replica_has_no_spread() -> None:
    assert put_together(record(0, [1.0]))[0].scores[0].spread is None


def test_replicas_that_came_unequally_far_are_compared_where_the_first_of_them_ended() -> None:
    (one,) = put_together(record(0, [5.0, 3.0, 1.0]), record(0, [7.0, 5.0], "STOPPED", 1), replicas=2)
    assert (one.outcome, one.samples, one.scores[0].mean) == ("early", 200, 4.0)


@pytest.mark.parametrize(
    ("statuses", "going_on", "outcome"),
    [
        (["FINISHED", "FINISHED"], False, "whole"),
        (["FINISHED"], False, "incomplete"),
        (["FINISHED"], True, "open"),
        (["FINISHED", "FAILED"], False, "incomplete"),
        (["FAILED", "FAILED"], False, "failed"),
        (["FAILED", "STOPPED"], False, "incomplete"),
        (["FINISHED", "STOPPED"], False, "early"),
        (["FINISHED", "RUNNING"], True, "open"),
        (["PAUSED", "FAILED"], True, "open"),
    ],
)
def test_the_outcome_of_two_replicas(statuses: list[TrialStatus], going_on: bool, outcome: str) -> None:
    records = [record(0, [1.0], status, replica) for replica, status in enumerate(statuses)]
    assert put_together(*records, replicas=2, going_on=going_on)[0].outcome == outcome


def test_failed_replicas_do_not_count() -> None:
    (one,) = put_together(record(0, [2.0, 2.0]), record(0, [9.0], "FAILED", 1), replicas=2)
    assert (one.samples, one.scores[0].values) == (200, (2.0,))


def test_a_value_that_is_no_number_makes_no_score() -> None:
    found = put_together(record(0, [1.0, math.nan]), record(1, [2.0, 2.0]))
    assert found[0].scores == ()
    assert [one.number for one in comparable(found, 200)] == [1]
    assert found[0].at(100)[0].mean == 1.0


def test_a_value_after_some_samples_is_the_last_one_before() -> None:
    (one,) = put_together(record(0, [3.0, 2.0, 1.0]))
    assert one.at(250)[0].mean == 2.0
    assert one.at(50) == one.at(301) == ()


def test_configurations_are_compared_at_what_all_have_seen() -> None:
    found = put_together(record(0, [3.0, 2.0, 1.0]), record(1, [4.0, 3.0], "STOPPED"), record(2, [1.0], "RUNNING"))
    assert compared_at(found) == 200
    assert [one.at(200)[0].mean for one in comparable(found, 200)] == [2.0, 3.0]


def test_one_of_ten_that_was_cut_off_at_once_does_not_hold_back_the_others() -> None:
    nine = [record(number, [3.0, 2.0]) for number in range(9)]
    found = put_together(*nine, record(9, [3.0], "STOPPED"))
    assert compared_at(found) == 200
    assert len(comparable(found, 200)) == 9
    assert compared_at(put_together(*nine[:8], record(9, [3.0], "STOPPED"))) == 100


def test_nothing_is_compared_where_nothing_has_ended() -> None:
    assert compared_at(put_together(record(0, [1.0], "RUNNING"), record(1, [], "FAILED"))) == 0


def test_the_best_is_chosen_among_whole_configurations_alone() -> None:
    found = put_together(
        record(0, [0.1], "STOPPED"),
        record(1, [0.2], "FAILED"),
        record(2, [math.inf]),
        record(3, [5.0]),
        record(4, [4.0]),
    )
    best = select_best(found, ["min"])
    assert best.first is not None
    assert (best.first.number, [one.number for one in best.front]) == (4, [4])
    assert [one.number for one in best.left_out] == [0, 1, 2]
    largest = select_best(found, ["max"]).first
    assert largest is not None
    assert largest.number == 3


def test_of_equals_the_first_is_best_and_without_any_there_is_none() -> None:
    first = select_best(put_together(record(0, [1.0]), record(1, [1.0])), ["min"]).first
    assert first is not None
    assert first.number == 0
    assert select_best(put_together(record(0, [1.0], "FAILED")), ["min"]).first is None


def test_several_objectives_have_a_front() -> None:
    points = [(1.0, 10.0), (2.0, 30.0), (2.0, 20.0), (3.0, 30.0), (0.5, 5.0), (2.0, 30.0)]
    found = put_together(*(record(number, [point]) for number, point in enumerate(points)))
    best = select_best(found, ["min", "max"])
    assert [one.number for one in best.front] == [0, 1, 4, 5]
    assert best.first is not None
    assert best.first.number == 4


def test_equal_in_the_first_objective_the_second_decides() -> None:
    best = select_best(put_together(record(0, [(1.0, 10.0)]), record(1, [(1.0, 30.0)])), ["min", "max"])
    assert best.first is not None
    assert (best.first.number, [one.number for one in best.front]) == (1, [1])


def test_the_best_replica_is_by_the_first_objective() -> None:
    (one,) = put_together(*(record(0, [value], replica=at) for at, value in enumerate((2.0, 1.0, 3.0))), replicas=3)
    assert (best_replica(one, "min").replica, best_replica(one, "max").replica) == (1, 2)


def ranked_record(number: int, *values: float, status: TrialStatus = "RUNNING", replica: int = 0) -> TrialRecord:
    points = (Point(10, values),) if values else ()
    return TrialRecord(number=number, replica=replica, assignment={}, status=status, points=points)


def test_replicas_count_together() -> None:
    records = [ranked_record(0, 1.0), ranked_record(0, 3.0, replica=1), ranked_record(1, 2.5)]
    assert outcomes(records) == {0: (2.0,), 1: (2.5,)}
    assert best(outcomes(records), ["min"]) == {0}
    assert best(outcomes(records), ["max"]) == {1}


def test_whole_trials_are_compared_with_whole_trials() -> None:
    records = [ranked_record(0, 0.9, status="STOPPED"), ranked_record(1, 0.5, status="FINISHED"), ranked_record(2, 0.7)]
    assert outcomes(records) == {1: (0.5,)}


@pytest.mark.parametrize("bad", [ranked_record(0, 9.0, status="FAILED"), ranked_record(0, math.nan), ranked_record(0)])
def test_what_failed_or_has_no_figure_never_counts(bad: TrialRecord) -> None:
    assert outcomes([bad, ranked_record(1, 1.0)]) == {1: (1.0,)}


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
