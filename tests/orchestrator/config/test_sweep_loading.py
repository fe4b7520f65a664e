from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.errors import RecipeError
from orchestrator.config.search_space import Choice, Range
from orchestrator.config.sweep import ResolvedSweep, load_sweep

RECIPE = """\
workload: albef
data: {train: shards}
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 30}
model: {preset: tiny}
"""
REST = """\
recipe: mine.yaml
objectives: [{metric: loss, mode: min}]
search: {method: random, trials: 4}
"""


def load(folder: Path, text: str, *overrides: str) -> ResolvedSweep:
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "alpha.yaml").write_text(REST + text)
    return load_sweep(folder / "alpha.yaml", overrides)


def test_a_sweep_knows_its_name_its_ranges_and_the_recipe_of_a_configuration(tmp_path: Path) -> None:
    sweep = load(
        tmp_path,
        "space: {distillation.alpha: 'uniform(0, 0.8)', optimizer.learning_rate: 'loguniform(1e-5, 1e-3)'}",
    )
    assert sweep.sweep.name == "alpha"
    assert [one.domain for one in sweep.parameters] == [Range(0, 0.8), Range(1e-5, 1e-3, logarithmic=True)]
    recipe = sweep.recipe({"distillation.alpha": 0.3}, {"name": "trial-1"})
    assert recipe.values()["distillation"]["alpha"] == 0.3
    assert recipe.recipe.name == "trial-1"


def test_a_key_is_searched_only_where_its_condition_holds(tmp_path: Path) -> None:
    sweep = load(
        tmp_path,
        "space:\n"
        "  adversarial.step_size: {draw: 'loguniform(1e-4, 1e-1)', when: adversarial.steps > 1}\n"
        "  adversarial.steps: [0, 2]\n",
    )
    assert [one.key for one in sweep.parameters] == ["adversarial.steps", "adversarial.step_size"]
    off = {"adversarial.steps": 0, "adversarial.step_size": 0.01}
    assert sweep.active(off) == {"adversarial.steps": 0}
    assert sweep.active(off | {"adversarial.steps": 2}) == {"adversarial.steps": 2, "adversarial.step_size": 0.01}


def test_a_whole_section_is_chosen_before_its_keys(tmp_path: Path) -> None:
    sweep = load(
        tmp_path,
        "space:\n"
        "  adversarial.step_size: {draw: 'uniform(0.1, 0.2)', when: adversarial.steps > 0}\n"
        "  adversarial: {choice: [{steps: 0}, {steps: 2}]}\n",
    )
    assert [one.key for one in sweep.parameters] == ["adversarial", "adversarial.step_size"]
    assert sweep.active({"adversarial": {"steps": 0}, "adversarial.step_size": 0.1}) == {"adversarial": {"steps": 0}}


def test_conditions_know_the_recipes_defaults(tmp_path: Path) -> None:
    sweep = load(
        tmp_path, "space: {distillation.alpha: 'uniform(0, 1)'}\nconstraints: [distillation.alpha < seed / 84]"
    )
    assert sweep.allowed({"distillation.alpha": 0.4})
    assert not sweep.allowed({"distillation.alpha": 0.6})


def test_overrides_of_the_sweep_reach_its_own_keys_and_the_recipe(tmp_path: Path) -> None:
    sweep = load(tmp_path, "space: {distillation.alpha: [0, 1]}\noverrides: {length.steps: 12}", "search.trials=9")
    assert sweep.sweep.search.trials == 9
    assert sweep.recipe({}).recipe.length.steps == 12
    assert sweep.parameters[0].domain == Choice((0, 1))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("space: {distillation.alhpa: [0, 1]}", 4, "did you mean 'alpha'?"),
        ("space:\n  distillation.alpha: uniform(0, 'a')", 5, "needs two numbers"),
        ("space:\n  distillation.alpha: uniform(0.8, 0)", 5, "is empty; the smaller number comes first"),
        ("space:\n  distillation.alpha: loguniform(0, 1)", 5, "starts above 0"),
        ("space:\n  distillation.alpha: normal(0, 1)", 5, "'normal' is not known; write uniform(0, 0.8)"),
        ("space:\n  distillation.alpha: []", 5, "there is nothing to choose from"),
        ("space:\n  distillation.alpha: [1, 2, 1]", 5, "names a value twice"),
        ("space:\n  distillation.alpha: 0.4", 5, "0.4 is not a range"),
        ("space:\n  distillation.alpha: {draw: 'uniform(0, 1)', whne: x}", 5, "write either draw"),
        ("space:\n  distillation.alpha: {draw: 'uniform(0, 1)', when: 'open(1)'}", 5, "'open(1)' is not understood"),
        ("space:\n  distillation.alpha: uniform(0, 7)", 5, "must be less than or equal to 1"),
        ("space:\n  seed: [1, 2]", 5, "is set by the sweep itself"),
        ("space: {}", 4, "at least 1 item"),
        ("space: {distillation.alpha: [0, 1]}\nconstraints: [1 +]", 5, "is not a condition"),
        ("space: {distillation.alpha: [0, 1]}\noverrides: {length.steps.a: 1}", 5, "'length.steps' is not a section"),
        ("space: {distillation.alpha: [0, 1]}\nschedular: {}", 5, "did you mean 'scheduler'?"),
        (
            "space:\n  distillation.alpha: {choice: [0, 1], when: distillation.ramp_epochs > 1}\n"
            "  distillation.ramp_epochs: {choice: [1, 2], when: distillation.alpha > 0}",
            4,
            "form a circle",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, text)
    assert f"alpha.yaml:{line}: " in str(caught.value)
    assert message in str(caught.value)


def test_an_override_of_a_recipe_key_leaves_its_section_as_it_is(tmp_path: Path) -> None:
    text = "space: {distillation.alpha: [0, 1]}\noverrides: {data.held_out: held}"
    sweep = load(tmp_path, text, "overrides.data.train=others", "space.distillation.alpha=[0.5, 0.6, 0.7]")
    assert (sweep.recipe({}).recipe.data.train, sweep.recipe({}).recipe.data.held_out) == ("others", "held")
    assert sweep.parameters[0].domain == Choice((0.5, 0.6, 0.7))
    with pytest.raises(RecipeError, match=r"command line: space\.distillation\.alpha: 3 is not a range"):
        load(tmp_path, text, "space.distillation.alpha=3")


@pytest.mark.parametrize("key", ["batch.micro_batches", "length", "evaluation.samples"])
def test_trials_that_a_scheduler_compares_are_measured_alike(tmp_path: Path, key: str) -> None:
    values = {"batch.micro_batches": "[2, 4]", "length": "[{steps: 10}, {steps: 20}]", "evaluation.samples": "[2, 3]"}
    space = f"space:\n  {key}: {values[key]}\n"
    assert load(tmp_path, space).sweep.space
    with pytest.raises(RecipeError, match=rf"alpha\.yaml:5: space\.{key}: asha .* set scheduler\.kind to none"):
        load(tmp_path, space + "scheduler: {kind: asha}")


def test_methods_and_schedulers_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    space = "space: {distillation.alpha: [0, 1]}\n"
    with pytest.raises(RecipeError, match=r"needs search.trials"):
        load(tmp_path, space, "search.trials=null")
    with pytest.raises(RecipeError, match=r"pbt changes trials while they run"):
        load(tmp_path, space, "scheduler.kind=pbt", "replicas=2")
    with pytest.raises(RecipeError, match=r"hyperband begins all trials of a bracket before one has ended"):
        load(tmp_path, space, "scheduler.kind=hyperband", "search.method=tpe", "search.trials=9")
    with pytest.raises(RecipeError, match=r"recipe: there is neither a file .*mine2\.yaml nor a recipe of that name"):
        load(tmp_path, space, "recipe=mine2.yaml")
