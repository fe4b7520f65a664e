"""Every shipped recipe is valid as it stands, save for the data that only its user has."""

from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.config.errors import RecipeError
from orchestrator.config.loading import load_recipe

FOLDER = Path("workloads/recipes")
RECIPES = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "sweeps")
ABLATION = ["mlm-itm", "itc", "hard-negatives", "itc-mod"]
"""The rows of ALBEF's table 1 below the full model, each with one thing more than the one before."""


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_it_resolves_with_data(recipe: Path) -> None:
    resolved = load_recipe(recipe, ["data.train=shards"])
    assert resolved.recipe.name == recipe.stem
    assert resolved.recipe.data.train == "shards"


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if path.stem.startswith("albef-")], ids=lambda path: path.stem
)
def test_an_official_run_asks_for_its_data(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"data: this key is required; set data\.train\."):
        load_recipe(recipe)


def test_the_official_run_is_the_official_run() -> None:
    resolved = load_recipe(FOLDER / "albef-4m.yaml", ["data.train=shards"])
    recipe, albef = resolved.recipe, resolved.values()
    assert (recipe.batch.samples, recipe.length.epochs, recipe.precision) == (512, 30, "float32")
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (1e-4, 0.02)
    assert (recipe.optimizer.betas, recipe.optimizer.clip_norm) == ((0.9, 0.999), None)
    assert (albef["model"]["image_size"], albef["contrastive"]["queue_size"]) == (256, 65536)
    assert albef["adversarial"]["steps"] == 0


@pytest.mark.parametrize(("row", "next_row"), [*pairwise(ABLATION), (ABLATION[-1], None)])
def test_a_row_of_the_ablation_lacks_one_thing_of_the_next(row: str, next_row: str | None) -> None:
    less, more = (load_recipe(path, ["data.train=shards"]).values() for path in (_row(row), _row(next_row)))
    changed = {
        f"{section}.{key}"
        for section, values in more.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if less[section][key] != value
    }
    expected = {
        "mlm-itm": "contrastive.enabled",
        "itc": "matching.hard_negatives",
        "hard-negatives": "distillation.contrastive",
        "itc-mod": "distillation.masked_language",
    }
    assert changed == {expected[row]}


def _row(name: str | None) -> Path:
    return FOLDER / f"ablation/albef-4m-{name}.yaml" if name else FOLDER / "albef-4m.yaml"
