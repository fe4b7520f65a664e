"""Every shipped sweep is valid as it stands, save for the data that only its user has."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.loading import load_recipe
from orchestrator.config.sweep import ResolvedSweep, load_sweep
from orchestrator.sweep.sampler import configuration_count, draw_random, grid
from orchestrator.sweep.validate import check_reports, check_sweep

FOLDER = Path("workloads/recipes/sweeps")
SWEEPS = sorted(FOLDER.glob("*.yaml"))
DATA = ("overrides.data.train=shards", "overrides.data.held_out=held")
STEPS = {"albef": 298_829, "emoji": 160}
ROWS = ["albef-4m-mlm-itm", "albef-4m-itc", "albef-4m-hard-negatives", "albef-4m-itc-mod", "albef-4m"]
"""The recipes of ALBEF's table 1, in its order."""


def shipped(name: str) -> ResolvedSweep:
    return load_sweep(FOLDER / f"{name}.yaml", DATA if name.startswith("albef") else ())


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_passes_all_checks_without_a_word(path: Path) -> None:
    assert check_sweep(shipped(path.stem)) == ()
    assert check_reports(shipped(path.stem), STEPS[path.stem.partition("-")[0]]) == ()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_says_how_it_is_started(path: Path) -> None:
    assert f"fuseray sweep run {path.name}" in path.read_text()


def test_an_emoji_sweep_is_as_long_as_it_says() -> None:
    for path in FOLDER.glob("emoji-*.yaml"):
        assert shipped(path.stem).recipe({}).recipe.length.steps == STEPS["emoji"]


@pytest.mark.parametrize("name", ["albef-alpha", "emoji-alpha"])
def test_alpha_has_five_values_among_them_the_official_one(name: str) -> None:
    assert [one["distillation.alpha"] for one in grid(shipped(name))] == [0.0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize("name", ["albef-alpha-step-size", "emoji-alpha-step-size"])
def test_the_step_size_is_drawn_where_there_are_adversarial_steps(name: str) -> None:
    sweep = shipped(name)
    found = [draw_random(sweep, number) for number in range(configuration_count(sweep))]
    assert {one["adversarial.steps"] > 0 for one in found} == {True, False}
    assert all(("adversarial.step_size" in one) == (one["adversarial.steps"] > 0) for one in found)


def test_the_ablation_has_the_recipes_of_the_table_and_no_others() -> None:
    sweep = shipped("albef-ablation")
    found = [sweep.recipe(one).values() for one in grid(sweep)]
    rows = [load_recipe(path, ["data.train=shards"]).values() for path in map(_row, ROWS)]
    free = ("name", "data", "evaluation")
    assert [_without(one, free) for one in found] == [_without(one, free) for one in rows]


def test_the_small_ablation_switches_the_same_things() -> None:
    assert grid(shipped("emoji-ablation")) == grid(shipped("albef-ablation"))
    recipes = [shipped("emoji-ablation").recipe(one) for one in grid(shipped("emoji-ablation"))]
    assert len({recipe.digest() for recipe in recipes}) == len(ROWS)


def _row(name: str) -> Path:
    folder = FOLDER.parent / "ablation" if name != "albef-4m" else FOLDER.parent
    return folder / f"{name}.yaml"


def _without(values: dict[str, object], keys: tuple[str, ...]) -> dict[str, object]:
    return {key: value for key, value in values.items() if key not in keys}
