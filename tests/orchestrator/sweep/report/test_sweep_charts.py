from __future__ import annotations

import numpy as np
import pytest

from orchestrator.config.search_space import Choice, Parameter, Range
from orchestrator.config.sweep import SchedulerSection
from orchestrator.report.charts import canvas
from orchestrator.sweep.report.axes import (
    Scale,
    cell_text,
    colour_ranks,
    label,
    score_text,
    set_scale,
    show_values,
    usual,
)
from orchestrator.sweep.report.charts import smoothed
from orchestrator.sweep.report.maps import mapped_pairs, triangles
from orchestrator.sweep.results import Score
from orchestrator.sweep.rungs import rungs
from orchestrator.sweep.validate import short_keys


def test_a_logarithmic_scale_has_its_middle_at_the_geometric_mean() -> None:
    scale = Scale(Range(1e-5, 1e-1, logarithmic=True))
    assert scale.position(1e-3) == pytest.approx(0.5)
    assert [text for _, text in scale.ticks()] == ["1e-05", "0.0001", "0.001", "0.01", "0.1"]
    assert [place for place, _ in scale.ticks()] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize(
    ("domain", "ticks"),
    [
        (Range(0, 0.8), ["0", "0.2", "0.4", "0.6", "0.8"]),
        (Range(1, 4, whole=True), ["1", "2", "3", "4"]),
        (Range(0.011, 0.013, logarithmic=True), ["0.011", "0.0115", "0.012", "0.0125", "0.013"]),
        (Range(1000, 200000, logarithmic=True), ["1k", "10k", "100k"]),
        (Choice(("a", {"steps": 2, "on": True}, None)), ["a", "steps: 2, on: true", "null"]),
    ],
)
def test_ticks_are_round_and_within(domain: Range | Choice, ticks: list[str]) -> None:
    found = Scale(domain).ticks()
    assert [text for _, text in found] == ticks
    assert all(0 <= place <= 1 for place, _ in found)


def test_long_choices_are_cut_to_the_room_there_is() -> None:
    names = tuple(f"{letter}-choice-with-a-long-name" for letter in "abcd")
    _, axes = canvas("loss")
    set_scale(axes.xaxis, Scale(Choice(names)), axes.set_xlim)
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "a-choice-wit…",
        "b-choice-wit…",
        "c-choice-wit…",
        "d-choice-wit…",
    ]


def test_ticks_of_near_values_differ() -> None:
    _, axes = canvas("loss")
    assert show_values(axes, [2.3401, 2.3402, 2.3403]) == 0
    texts = [text.get_text() for text in axes.get_yticklabels()]
    assert len(set(texts)) == len(texts) > 2


def test_choices_stand_in_the_middle_of_equal_parts() -> None:
    scale = Scale(Choice((0, 2, 3)))
    assert [scale.position(one) for one in (0, 2, 3)] == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    assert not scale.is_numeric


def test_grades_hold_equally_many_and_a_diverged_one_changes_little() -> None:
    values = [2 + 0.01 * number for number in range(69)] + [900.0]
    found = colour_ranks(values, "min")
    named = [found.colour(value) for value in values]
    assert [named.count(f"grade-{number}") for number in range(1, 8)] == [10] * 7
    assert (found.colour(2.0), found.colour(900.0)) == ("grade-7", "grade-1")
    assert colour_ranks(values, "max").colour(900.0) == "grade-7"


def test_few_or_equal_values_have_few_grades() -> None:
    assert colour_ranks([3.0, 3.0], "min").colour(3.0) == "grade-7"
    two = colour_ranks([1.0, 2.0], "min")
    assert (two.colour(1.0), two.colour(2.0)) == ("grade-7", "grade-1")


def test_what_is_far_from_all_others_does_not_widen_an_axis() -> None:
    assert usual([2.0, 2.1, 2.2, 2.3, 50.0]) == (2.0, 2.3)
    assert usual([1.0]) == (1.0, 1.0)
    assert usual([1.0, 1.0, 1.0, 5.0]) == (1.0, 5.0)


def test_the_course_follows_neighbours_and_stops_where_there_are_none() -> None:
    x = np.array([0.0, 0.02, 0.05, 0.9, 0.92])
    mean, spread = smoothed(x, np.array([1.0, 1.0, 1.0, 3.0, 5.0]), np.array([0.02, 0.5, 0.91]))
    assert mean[[0, 2]] == pytest.approx([1, 4], abs=0.02)
    assert spread[[0, 2]] == pytest.approx([0, 1], abs=0.02)
    assert np.isnan(mean[1])


def test_a_map_is_filled_between_near_neighbours_alone() -> None:
    x, y = np.array([0.0, 0.4, 0.0, 0.4, 1.0]), np.array([0.0, 0.0, 0.4, 0.4, 1.0])
    between = triangles(x, y)
    assert between is not None
    assert between.mask is not None
    filled = between.triangles[~between.mask]
    assert sorted({int(corner) for corner in filled.ravel()}) == [0, 1, 2, 3]


def test_points_in_a_line_have_no_surface() -> None:
    assert triangles(np.array([0.0, 0.1, 0.2]), np.array([0.0, 0.1, 0.2])) is None


RELATED = (("distillation.alpha", "adversarial.step_size"),)


def test_maps_are_of_the_most_important_numbers_and_of_alpha_with_the_step_size() -> None:
    keys = ["distillation.alpha", "a", "b", "c", "adversarial.step_size"]
    parameters = [Parameter(key, Range(0, 1)) for key in keys] + [Parameter("kind", Choice((1, 2)))]
    pairs = mapped_pairs(parameters, ["kind", "c", "a", "b", "distillation.alpha", "adversarial.step_size"], RELATED)
    assert [(one.key, other.key) for one, other in pairs] == [
        ("distillation.alpha", "adversarial.step_size"),
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert mapped_pairs(parameters[:1], ["distillation.alpha"], RELATED) == []


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (SchedulerSection(), ()),
        (SchedulerSection(kind="asha"), (960, 2880, 8640)),
        (SchedulerSection(kind="asha", first_rung=0.25, reduction=2), (2400, 4800)),
        (SchedulerSection(kind="hyperband"), (960, 2880)),
        (SchedulerSection(kind="pbt", exchange_every=0.3), (2880, 5760, 8640)),
    ],
)
def test_rungs(scheduler: SchedulerSection, expected: tuple[int, ...]) -> None:
    assert rungs(scheduler, 9600) == expected


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    assert short_keys(["distillation.alpha", "seed", "a.size", "b.size", "size"]) == {
        "distillation.alpha": "alpha",
        "seed": "seed",
        "a.size": "a.size",
        "b.size": "b.size",
        "size": "size",
    }


def test_values_are_written_for_people() -> None:
    assert [cell_text(one) for one in (0.000123456, 12345.0, 3, True, None, "a\nb", [1, 2])] == [
        "0.000123", "12.3k", "3", "true", "null", "a b", "[1, 2]",
    ]  # fmt: skip
    assert score_text(Score((2.0, 2.1, 2.2))) == "2.1 ± 0.1"
    assert label("costs $5 and much more than that") == "costs \\$5 and much…"
