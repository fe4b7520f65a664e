from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
from small_recipes import SWEPT

from orchestrator.config.errors import ConfigError
from orchestrator.config.sweep import ResolvedSweep, load_sweep
from orchestrator.sweep.sampler import ObservedTrial, draw_random, grid, perturbed, propose_tpe

SPACE = """\
space:
  distillation.alpha: uniform(0, 0.8)
  adversarial.steps: [0, 2]
  adversarial.step_size: {draw: "loguniform(1e-4, 1e-1)", when: adversarial.steps > 1}
"""
ALPHA = "space: {distillation.alpha: 'uniform(0, 0.8)'}\n"


def sweep(folder: Path, text: str = SPACE, objectives: str = "[{metric: loss, mode: min}]") -> ResolvedSweep:
    (folder / "mine.yaml").write_text(SWEPT)
    file = folder / "alpha.yaml"
    search = "search: {method: random, trials: 4}"
    file.write_text(f"recipe: mine.yaml\nobjectives: {objectives}\n{search}\n{text}")
    return load_sweep(file)


def test_a_grid_has_every_combination_once_and_none_of_what_a_condition_leaves_out(tmp_path: Path) -> None:
    found = grid(sweep(tmp_path))
    assert len(found) == 4 * 1 + 4 * 4
    assert found[0] == {"distillation.alpha": 0.0, "adversarial.steps": 0}
    sizes = [one["adversarial.step_size"] for one in found if "adversarial.step_size" in one]
    assert sizes[:4] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


def test_a_grid_keeps_to_the_constraints(tmp_path: Path) -> None:
    found = grid(sweep(tmp_path, ALPHA + "constraints: [distillation.alpha < 0.5]"))
    assert [one["distillation.alpha"] for one in found] == pytest.approx([0.0, 0.8 / 3, 1.6 / 3][:2])


def test_draws_are_a_function_of_seed_and_number_and_fill_the_range(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    found = [draw_random(one, number) for number in range(200)]
    assert found == [draw_random(one, number) for number in range(200)]
    alphas = [each["distillation.alpha"] for each in found]
    assert mean(alphas) == pytest.approx(0.4, abs=0.05)
    assert min(alphas) < 0.05
    assert max(alphas) > 0.75
    with_steps = [each for each in found if each["adversarial.steps"] == 2]
    assert 70 < len(with_steps) < 130
    assert all(("adversarial.step_size" in each) == (each["adversarial.steps"] == 2) for each in found)


@pytest.mark.parametrize("propose", [grid, lambda one: draw_random(one, 0), lambda one: propose_tpe(one, 0, [])])
def test_an_empty_space_is_refused(tmp_path: Path, propose: object) -> None:
    empty = sweep(tmp_path, ALPHA + "constraints: [distillation.alpha > 1]")
    with pytest.raises(ConfigError, match=r"no configuration meets all of distillation.alpha > 1"):
        propose(empty)


def follow(one: ResolvedSweep, trials: int) -> list[ObservedTrial]:
    observed_trials: list[ObservedTrial] = []
    for number in range(trials):
        assignment = propose_tpe(one, number, observed_trials)
        observed_trials.append(ObservedTrial(number, assignment, ((assignment["distillation.alpha"] - 0.6) ** 2,)))
    return observed_trials


def test_the_estimator_learns_and_gives_the_same_again(tmp_path: Path) -> None:
    one = sweep(tmp_path, ALPHA)
    observed_trials = follow(one, 30)
    assert observed_trials == follow(one, 30)
    off = [abs(each.assignment["distillation.alpha"] - 0.6) for each in observed_trials]
    assert mean(off[20:]) < 0.5 * mean(off[:10])


def test_the_estimator_learns_from_several_objectives(tmp_path: Path) -> None:
    one = sweep(tmp_path, ALPHA, objectives="[{metric: loss, mode: min}, {metric: learning_rate, mode: max}]")
    observed_trials: list[ObservedTrial] = []
    for number in range(40):
        assignment = propose_tpe(one, number, observed_trials)
        off = (assignment["distillation.alpha"] - 0.6) ** 2
        observed_trials.append(ObservedTrial(number, assignment, (off, -off)))
    off = [abs(each.assignment["distillation.alpha"] - 0.6) for each in observed_trials]
    assert mean(off[30:]) < 0.5 * mean(off[:10])


def test_the_estimator_takes_running_and_failed_trials_and_several_objectives(tmp_path: Path) -> None:
    both = "[{metric: loss, mode: min}, {metric: samples_per_s, mode: max}]"
    one = sweep(tmp_path, objectives=both)
    observed_trials = [
        ObservedTrial(0, {"distillation.alpha": 0.3, "adversarial.steps": 0}, (1.0, 2.0)),
        ObservedTrial(1, draw_random(one, 1)),
    ]
    found = propose_tpe(one, 2, observed_trials)
    assert 0 <= found["distillation.alpha"] <= 0.8
    assert ("adversarial.step_size" in found) == (found["adversarial.steps"] == 2)


def test_exploring_moves_every_number_by_a_fifth_within_its_range_and_keeps_to_conditions(tmp_path: Path) -> None:
    one = sweep(tmp_path)
    start = {"distillation.alpha": 0.4, "adversarial.steps": 2, "adversarial.step_size": 0.01}
    found = perturbed(one, start, "trial-0000-0")
    assert found == perturbed(one, start, "trial-0000-0")
    assert found["distillation.alpha"] == pytest.approx(0.32) or found["distillation.alpha"] == pytest.approx(0.48)
    assert found["adversarial.step_size"] == pytest.approx(0.008) or found["adversarial.step_size"] == pytest.approx(
        0.012
    )
    edge = perturbed(one, {"distillation.alpha": 0.8, "adversarial.steps": 0}, "trial-0000-0")
    assert edge["distillation.alpha"] in (0.8, pytest.approx(0.64))


def test_trials_that_were_stopped_early_count_for_less_than_whole_ones(tmp_path: Path) -> None:
    one = sweep(tmp_path, ALPHA)
    whole = [ObservedTrial(number, {"distillation.alpha": 0.1 + 0.01 * number}, (0.5,)) for number in range(6)]
    early = [
        ObservedTrial(6 + number, {"distillation.alpha": 0.6 + 0.01 * number}, (0.1,), stopped_at=8)
        for number in range(6)
    ]
    found = [propose_tpe(one, number, whole + early)["distillation.alpha"] for number in range(12, 32)]
    assert mean(found) < 0.4
