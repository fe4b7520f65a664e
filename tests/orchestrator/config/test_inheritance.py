"""A recipe may extend another: values merge, and every fault is named in the file where it stands."""

from pathlib import Path

import pytest

from orchestrator.config.document import read_extended
from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.loading import load_recipe
from orchestrator.train.plan import recipe_yaml

BASE = """\
workload: albef
name: base-run
data:
  train: shards
batch:
  micro_batches: 4
  micro_batch_size: 8
length:
  epochs: 3
optimizer:
  learning_rate: 1e-4
  clip_norm: 1.0
  betas: [0.9, 0.98]
model:
  preset: tiny
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def child(folder: Path, text: str, name: str = "child.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def fault(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    (finding,) = caught.value.findings
    return str(finding)


def test_sections_merge_and_the_extending_file_wins(folder: Path) -> None:
    path = child(folder, "extends: base.yaml\nbatch: {micro_batches: 2}\noptimizer:\n  betas: [0.8, 0.9]\nseed: 7\n")
    recipe = load_recipe(path).recipe
    assert (recipe.batch.micro_batches, recipe.batch.micro_batch_size) == (2, 8)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.betas) == (1e-4, (0.8, 0.9))
    assert recipe.seed == 7


def test_null_means_null(folder: Path) -> None:
    path = child(folder, "extends: base.yaml\nlength: {epochs: null, steps: 5}\noptimizer: {clip_norm: null}\n")
    recipe = load_recipe(path).recipe
    assert (recipe.length.epochs, recipe.length.steps, recipe.optimizer.clip_norm) == (None, 5, None)


def test_the_run_is_named_after_the_extending_file(folder: Path) -> None:
    assert load_recipe(child(folder, "extends: base.yaml\n")).recipe.name == "child"
    assert load_recipe(child(folder, "extends: base.yaml\nname: mine\n")).recipe.name == "mine"


def test_chains_run_through_folders(folder: Path) -> None:
    child(folder, "extends: ../base.yaml\nseed: 1\nprecision: bfloat16\n", "deep/middle.yaml")
    path = child(folder, "extends: deep/middle.yaml\nseed: 2\n")
    recipe = load_recipe(path).recipe
    assert (recipe.seed, recipe.precision, recipe.batch.micro_batches) == (2, "bfloat16", 4)


def test_overrides_win_over_both_files(folder: Path) -> None:
    path = child(folder, "extends: base.yaml\noptimizer: {learning_rate: 2e-4}\n")
    assert load_recipe(path, ["optimizer.learning_rate=3e-4"]).recipe.optimizer.learning_rate == 3e-4


def test_the_resolved_recipe_stands_alone(folder: Path) -> None:
    resolved = load_recipe(child(folder, "extends: base.yaml\nseed: 3\n"))
    text = recipe_yaml(resolved)
    assert "extends" not in text
    assert load_recipe(child(folder, text, "alone.yaml")).digest() == resolved.digest()
    same = BASE.replace("name: base-run", "seed: 3")
    assert load_recipe(child(folder, same, "flat.yaml")).digest() == resolved.digest()


@pytest.mark.parametrize(
    ("text", "file", "line", "message"),
    [
        ("extends: base.yaml\nseed: -1\n", "child.yaml", 2, "seed: must be greater"),
        ("extends: base.yaml\noptimizer: {betas: [1]}\n", "child.yaml", 2, "optimizer.betas.1: this key is required"),
        ("extends: broken.yaml\n", "broken.yaml", 3, "optimizer.clip_norm: must be greater than 0"),
        ("extends: broken.yaml\noptimizer:\n  epsilon: 1.0\n", "broken.yaml", 3, "optimizer.clip_norm"),
        ("extends: base.yaml\nlength:\n  steps: 4\n", "child.yaml", 2, "give exactly one of"),
        ("extends: base.yaml\noptimizer: null\n", "child.yaml", 2, "optimizer: must be an object"),
    ],
)
def test_a_fault_is_named_in_the_file_that_holds_it(
    folder: Path, text: str, file: str, line: int, message: str
) -> None:
    child(folder, "extends: base.yaml\noptimizer:\n  clip_norm: -1\n", "broken.yaml")
    found = fault(child(folder, text))
    assert found.startswith(f"{folder}/{file}:{line}: ")
    assert message in found


def test_a_replaced_value_is_not_blamed_on_the_base(folder: Path) -> None:
    document = read_extended(child(folder, "extends: base.yaml\nmodel:\noptimizer:\n  betas: 3\n"))
    assert document.location(("model", "preset")) == f"{folder}/child.yaml:2"
    assert document.location(("optimizer", "betas", 0)) == f"{folder}/child.yaml:4"
    assert document.location(("optimizer", "clip_norm")) == f"{folder}/base.yaml:12"


def test_a_missing_base_names_both_files(folder: Path) -> None:
    path = child(folder, "seed: 1\nextends: basis.yaml\n")
    found = fault(path)
    assert found.startswith(f"{path}:2: extends: there is neither a file {folder}/basis.yaml nor a recipe")


@pytest.mark.parametrize("value", ["[base.yaml]", "3", "{file: base.yaml}"])
def test_extends_takes_one_path(folder: Path, value: str) -> None:
    assert "child.yaml:1: extends: must be the path or the name" in fault(child(folder, f"extends: {value}\n"))


def test_circles_are_refused(folder: Path) -> None:
    one, two = child(folder, "extends: two.yaml\n", "one.yaml"), child(folder, "extends: one.yaml\n", "two.yaml")
    assert fault(one) == f"{two}:1: extends: the recipes extend each other in a circle: {one} -> {two} -> {one}."
    itself = child(folder, "extends: itself.yaml\n", "itself.yaml")
    assert "in a circle" in fault(itself)


def test_a_base_that_is_no_yaml_is_named(folder: Path) -> None:
    child(folder, "a: [1", "bad.yaml")
    with pytest.raises(ConfigError, match=r"bad\.yaml:1: is not valid YAML"):
        load_recipe(child(folder, "extends: bad.yaml\n"))


def test_extends_is_no_override(folder: Path) -> None:
    assert fault(folder / "base.yaml", "extends=other.yaml").startswith("command line: unknown key 'extends'")
