"""A spike stands out from what came just before it, on level and on falling curves."""

import math
from statistics import median

import numpy as np
import pytest

from orchestrator.track.analysis import MIN_HISTORY, WINDOW, Spike, find_spikes


def curve(seed: int, steps: int = 1000) -> list[float]:
    """A falling loss with noise of 0.1."""
    noise = np.random.default_rng(seed).normal(size=steps)
    return (6 * np.exp(-np.arange(steps) / 300) + 2 + 0.1 * noise).tolist()


def spikes_of(values: list[float]) -> list[Spike]:
    return find_spikes(range(len(values)), values)


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_spike(seed: int) -> None:
    assert spikes_of(curve(seed)) == []


@pytest.mark.parametrize("step", [20, WINDOW, 150, 999])
def test_a_jump_is_found_where_it_is_also_while_the_curve_falls(step: int) -> None:
    values = curve(0)
    height = values[step]
    values[step] += 3
    (spike,) = spikes_of(values)
    assert (spike.step, spike.last_step, spike.value) == (step, step, height + 3)
    assert spike.expected == pytest.approx(height, abs=1)


def test_the_largest_comes_first_and_steps_in_a_row_are_one() -> None:
    values = curve(1)
    values[300] += 2
    values[600:605] = [value + 4 for value in values[600:605]]
    values[602] += 1
    found = spikes_of(values)
    assert [(spike.step, spike.last_step) for spike in found] == [(600, 604), (300, 300)]
    assert found[0].value == values[602]
    assert found[0].score > found[1].score > 6


def test_a_fall_is_no_spike() -> None:
    values = curve(2)
    values[500] -= 3
    assert spikes_of(values) == []


def slowly(values: list[float], step: int) -> tuple[float, float]:
    """What was expected at a step, and its score, in the words of the formula."""
    medians = [median(values[max(0, one - WINDOW) : one]) for one in range(MIN_HISTORY, step + 1)]
    distances = [value - before for value, before in zip(values[MIN_HISTORY : step + 1], medians, strict=True)]
    *earlier, distance = distances
    window = earlier[-WINDOW:]
    usual = median(window)
    deviation = median(abs(one - usual) for one in window)
    score = (distance - usual) / max(1.4826 * deviation, 0.001 * abs(medians[-1]))
    return medians[-1] + usual, score


@pytest.mark.parametrize("step", [2 * MIN_HISTORY, 40, WINDOW + MIN_HISTORY, 3 * WINDOW])
def test_the_score_is_what_the_formula_says(step: int) -> None:
    values = curve(6)[: step + 1]
    values[step] += 5
    (spike,) = spikes_of(values)
    assert (spike.expected, spike.score) == pytest.approx(slowly(values, step), rel=1e-12)


def test_what_is_not_finite_is_the_worst_spike_and_no_part_of_the_background() -> None:
    values = curve(3)
    values[3], values[400], values[401], values[800] = math.nan, math.inf, math.nan, values[800] + 3
    first, second, third = spikes_of(values)
    assert (first.step, first.score, math.isnan(first.value), math.isnan(first.expected)) == (3, math.inf, True, True)
    assert (second.step, second.last_step, second.value) == (400, 401, math.inf)
    assert (third.step, math.isfinite(third.score)) == (800, True)


def test_a_curve_that_stands_still_does_not_jump_by_a_twitch() -> None:
    assert spikes_of([2.0] * 50 + [2.005]) == []
    (spike,) = spikes_of([2.0] * 50 + [2.1])
    assert spike.score == pytest.approx(50)


def test_too_few_values_say_nothing() -> None:
    assert spikes_of([]) == []
    assert spikes_of([*curve(6)[: 2 * MIN_HISTORY], 100.0])[0].step == 2 * MIN_HISTORY
    assert spikes_of([*curve(6)[: 2 * MIN_HISTORY - 1], 100.0]) == []


def test_of_a_step_that_comes_twice_the_later_value_counts() -> None:
    steps, values = [*range(50), 30], [*curve(4, 50), 100.0]
    assert [spike.step for spike in find_spikes(steps, values)] == [30]
    assert find_spikes([30, *range(50)], [100.0, *curve(4, 50)]) == []


def test_long_curves_are_judged_like_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    values = curve(5)
    values[777] += 2
    whole = spikes_of(values)
    monkeypatch.setattr("orchestrator.track.analysis.ROWS_AT_ONCE", 10)
    assert spikes_of(values) == whole
