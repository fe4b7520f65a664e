"""Every shipped recipe is valid as it stands, save for the data that only its user has."""

from itertools import pairwise
from math import ceil, cos, pi
from pathlib import Path

import pytest

from orchestrator.config.document import flatten
from orchestrator.config.errors import RecipeError
from orchestrator.config.loading import load_recipe
from orchestrator.train.step import Progress, learning_rate

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


@pytest.mark.parametrize(
    ("name", "epochs", "captions", "images", "k"),
    [("coco", 5, 566_747, 5_000, 256), ("flickr30k", 10, 145_000, 1_014, 128)],
)
def test_the_official_fine_tuning_is_the_official_fine_tuning(
    name: str, epochs: int, captions: int, images: int, k: int
) -> None:
    resolved = load_recipe(FOLDER / f"finetune/retrieval-{name}.yaml", ["data.train=shards"])
    recipe, albef, evaluation = resolved.recipe, resolved.values(), resolved.values()["evaluation"]
    assert (recipe.workload, recipe.batch.samples, recipe.length.epochs) == ("albef-retrieval", 256, epochs)
    rates = [learning_rate(recipe.schedule, recipe.optimizer.learning_rate, Progress(0, 1, e, epochs)) for e in (0, 1)]
    assert rates == [1e-5, pytest.approx(1e-6 + 4.5e-6 * (1 + cos(pi / epochs)))]
    assert (albef["model"]["image_size"], albef["augment"]["crop_scale"]) == (384, [0.5, 1.0])
    assert (albef["contrastive"]["temperature_range"], albef["text"]["max_tokens"]) == (None, 30)
    assert (evaluation["rerank"], evaluation["texts"], evaluation["samples"]) == (k, "all", images)
    last = ceil(captions * epochs / 256)
    assert last - last % evaluation["every_steps"] == pytest.approx(last, abs=epochs)  # the last epoch is measured
    assert (recipe.checkpoint.every_steps, recipe.checkpoint.metric) == (
        evaluation["every_steps"],
        "held_out/reranked/r_mean",
    )


DEMO_SAMPLES = 3643
"""Training samples that `fuseray data emoji` builds."""


def test_the_demo_is_fine_tuned_on_its_own_data_and_model() -> None:
    demo, tuned = (load_recipe(FOLDER / name) for name in ("emoji-demo.yaml", "finetune/retrieval-emoji.yaml"))
    assert tuned.recipe.data == demo.recipe.data
    assert tuned.recipe.start is not None
    steps = ceil(DEMO_SAMPLES * (demo.recipe.length.epochs or 0) / demo.recipe.batch.samples)
    assert tuned.recipe.start.checkpoint == f"runs/emoji-demo/checkpoints/step-{steps:08d}"
    keys = set(demo.entry.architecture_keys)
    assert {key: value for key, value in flatten(tuned.values()).items() if key in keys} == {
        key: value for key, value in flatten(demo.values()).items() if key in keys
    }


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
