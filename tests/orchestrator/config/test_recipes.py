"""Recipes are checked strictly, and what is wrong is said with its place and the closest right name."""

from pathlib import Path

import pytest

from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.loading import load_recipe
from orchestrator.train.plan import differences, recipe_yaml

GOOD = """\
workload: albef
data:
  train: shards
batch:
  micro_batches: 4
  micro_batch_size: 8
length:
  steps: 10
optimizer:
  learning_rate: 1e-4
model:
  preset: tiny
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def findings(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), overrides)
    return [str(finding) for finding in caught.value.findings]


def test_a_good_recipe_is_resolved(tmp_path: Path) -> None:
    resolved = load_recipe(write(tmp_path, GOOD))
    assert resolved.recipe.name == "mine"
    assert resolved.recipe.optimizer.learning_rate == 1e-4
    assert resolved.values()["model"]["vision"]["width"] < 768


def test_a_resolved_recipe_is_a_recipe_of_the_same_digest(tmp_path: Path) -> None:
    resolved = load_recipe(write(tmp_path, GOOD))
    again = load_recipe(write(tmp_path, recipe_yaml(resolved)))
    assert again.values() == resolved.values()
    assert again.digest() == resolved.digest()


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("optimizer:", "optimiser:"), 9, "unknown key 'optimiser'; did you mean 'optimizer'?"),
        (("learning_rate", "learning_rat"), 10, "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        (("preset: tiny", "presett: tiny"), 12, "unknown key 'presett'; did you mean 'preset'?"),
        (("micro_batches: 4", 'micro_batches: "4"'), 5, "batch.micro_batches: must be a valid integer (got '4')"),
        (("micro_batches: 4", "micro_batches: 0"), 5, "must be greater than or equal to 1 (got 0)"),
        (("steps: 10", "steps: 10\n  epochs: 3"), 7, "give exactly one of length.epochs and length.steps"),
        (("  micro_batch_size: 8\n", ""), 4, "batch.micro_batch_size: this key is required"),
        (("micro_batch_size: 8", "micro_batch_size: 1"), 6, "batch.micro_batch_size"),
        (("preset: tiny", "preset: tiny\n  image_size: 63"), 13, "model.image_size"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path: Path, change: tuple[str, str], line: int, message: str) -> None:
    found = findings(tmp_path, GOOD.replace(*change))
    assert len(found) == 1
    assert found[0].startswith(f"{tmp_path}/mine.yaml:{line}: ")
    assert message in found[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.rerak=3", "evaluation.rerak: unknown key 'rerak'; did you mean 'rerank'?"),
        ("evaluation.every_step=3", "evaluation.every_step: unknown key 'every_step'; did you mean 'every_steps'?"),
        ("evaluation.rerank=-1", "evaluation.rerank: must be greater than or equal to 0 (got -1)"),
        ("evaluation.where=there", "evaluation.where: must be 'workers' or 'beside' (got 'there')"),
    ],
)
def test_the_section_evaluation_belongs_to_both(tmp_path: Path, override: str, message: str) -> None:
    (found,) = findings(tmp_path, GOOD, override)
    assert found.endswith(message)


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("optimizer", "optimiser").replace("micro_batches: 4", "micro_batches: four")
    assert len(findings(tmp_path, text)) == 2


def test_more_workers_than_micro_batches_are_refused(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, GOOD, "scale.workers=5")
    assert "scale.workers (5) must be at most batch.micro_batches (4)" in found


def test_overrides_are_yaml_values(tmp_path: Path) -> None:
    overrides = ["optimizer.learning_rate=3e-5", "scale.use_gpu=true", "adversarial.perturb=[text, image]", "name=x"]
    resolved = load_recipe(write(tmp_path, GOOD), overrides)
    assert resolved.recipe.optimizer.learning_rate == 3e-5
    assert resolved.recipe.scale.use_gpu is True
    assert resolved.values()["adversarial"]["perturb"] == ["text", "image"]
    assert resolved.recipe.name == "x"


def test_an_override_fills_a_section_that_is_null(tmp_path: Path) -> None:
    path = write(tmp_path, recipe_yaml(load_recipe(write(tmp_path, GOOD))))
    assert load_recipe(path).recipe.start is None
    start = load_recipe(path, ["start.checkpoint=imported", "start.take=everything"]).recipe.start
    assert (start.checkpoint, start.take) == ("imported", "everything")


def test_a_wrong_override_is_placed_on_the_command_line(tmp_path: Path) -> None:
    assert findings(tmp_path, GOOD, "optimizer.beta=1")[0].startswith("command line: ")


@pytest.mark.parametrize("override", ["nonsense", "=3", "workload.x=1", "batch.micro_batches.x.y=1"])
def test_a_malformed_override_is_explained(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load_recipe(write(tmp_path, GOOD), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("a: 1\na: 2\n", "is not valid YAML"),
        ("- 1\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("data: {train: x}\n", "workload: this key is required"),
        ("workload: albeff\n", "no workload is called 'albeff'; did you mean 'albef'?"),
    ],
)
def test_a_file_that_is_no_recipe_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def test_a_file_that_is_not_utf8_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_recipe(path)


def test_differences_name_keys_and_values(tmp_path: Path) -> None:
    before = load_recipe(write(tmp_path, GOOD)).values()
    changed = ["seed=7", "optimizer.betas=[0.9, 0.98]", f"data.train={tmp_path}/shards"]
    now = load_recipe(write(tmp_path, GOOD), changed).values()
    assert differences(before, now, tmp_path) == {"optimizer.betas": "[0.9, 0.999] -> [0.9, 0.98]", "seed": "42 -> 7"}


def test_the_digest_ignores_places_and_scale(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    others = ["name=other", "scale.workers=2", "storage.uri=elsewhere", "checkpoint.every_steps=5"]
    same = load_recipe(path, [*others, "stream.decoded_cache_mb=500"])
    assert same.digest() == load_recipe(path).digest()
    assert load_recipe(path, ["seed=1"]).digest() != load_recipe(path).digest()


def test_a_password_in_the_tracking_uri_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (found,) = findings(tmp_path, GOOD, "tracking.uri=postgresql://me:hunter2@host/db")
    assert "tracking.uri: holds a password" in found
    assert "hunter2" not in found
