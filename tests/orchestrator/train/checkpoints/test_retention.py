"""Which checkpoints stay."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from orchestrator.config.recipe import CheckpointSection
from orchestrator.storage.location import locate
from orchestrator.train.checkpoints.maintenance import CheckpointInfo, Condition, checkpoints_to_delete

NOW = datetime(2026, 1, 2, tzinfo=UTC)
WHOLE, DAMAGED, INCOMPLETE, UNKNOWN = Condition


def entry(
    step: int, condition: Condition = WHOLE, loss: float | None = None, pinned: bool = False, age_s: float | None = 0
) -> CheckpointInfo:
    changed = None if age_s is None else NOW - timedelta(seconds=age_s)
    return CheckpointInfo(
        locate(f"/step-{step}"), step, condition, 1, changed, {} if loss is None else {"loss": loss}, pinned=pinned
    )


def removed(found: list[CheckpointInfo], keep: int = 2, keep_best: int = 0, mode: str = "min") -> list[int]:
    section = CheckpointSection(keep=keep, keep_best=keep_best, metric="loss", mode=mode)
    return [one.step for one in checkpoints_to_delete(found, section, NOW)]


@pytest.mark.parametrize(("keep", "gone"), [(1, [1, 2, 3]), (2, [1, 2]), (4, []), (9, [])])
def test_the_newest_stay(keep: int, gone: list[int]) -> None:
    assert removed([entry(step) for step in (3, 1, 2, 4)], keep) == [step for step in (3, 1, 2, 4) if step in gone]


def test_what_is_to_be_measured_stays_until_it_has_been() -> None:
    waiting = replace(entry(1), waiting=True)
    assert removed([waiting, entry(2), entry(3)], keep=1) == [2]
    assert removed([entry(1), entry(2), entry(3)], keep=1) == [1, 2]


def test_nothing_is_removed_where_nothing_is() -> None:
    assert removed([]) == []


@pytest.mark.parametrize(
    ("keep_best", "mode", "gone"),
    [(1, "min", [1, 3, 4]), (2, "min", [1, 3]), (1, "max", [2, 3, 4]), (9, "max", [3])],
)
def test_the_best_stay_beside_the_newest(keep_best: int, mode: str, gone: list[int]) -> None:
    found = [entry(1, loss=0.9), entry(2, loss=0.1), entry(3), entry(4, loss=0.5), entry(5, loss=0.7)]
    assert removed(found, 1, keep_best, mode) == gone


def test_of_equally_good_ones_the_newer_stays() -> None:
    assert removed([entry(step, loss=0.5) for step in (1, 2, 3)], keep=1, keep_best=2) == [1]


def test_a_damaged_one_is_not_among_the_newest_or_best() -> None:
    found = [entry(1), entry(2), entry(3, DAMAGED, loss=0.0), entry(4)]
    assert removed(found, keep=2, keep_best=1) == [1]


def test_a_damaged_one_goes_when_whole_ones_of_its_age_do() -> None:
    assert removed([entry(1, DAMAGED), entry(2), entry(3)], keep=2) == [1]
    assert removed([entry(1, DAMAGED), entry(2)], keep=2) == []
    assert removed([entry(1, DAMAGED)], keep=2) == []


def test_pinned_ones_stay() -> None:
    found = [entry(1, pinned=True), entry(2, DAMAGED, pinned=True), entry(3, INCOMPLETE, pinned=True, age_s=1e6)]
    assert removed([*found, entry(4), entry(5)], keep=1) == [4]


@pytest.mark.parametrize(("age_s", "gone"), [(0, False), (3599, False), (3601, True), (None, False)])
@pytest.mark.parametrize("step", [1, 9])
def test_what_may_be_being_written_stays(age_s: float | None, gone: bool, step: int) -> None:
    assert removed([entry(step, INCOMPLETE, age_s=age_s), entry(5)]) == [step] * gone


def test_checkpoints_of_a_newer_version_stay() -> None:
    assert removed([entry(1, UNKNOWN, age_s=1e6), entry(2), entry(3), entry(4)], keep=1) == [2, 3]


@pytest.mark.parametrize("given", [{}, {"metric": "loss"}, {"mode": "max"}])
def test_the_best_need_a_metric_and_a_mode(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"checkpoint\.keep_best needs checkpoint\.metric, for example loss, and"):
        CheckpointSection(keep_best=1, **given)
