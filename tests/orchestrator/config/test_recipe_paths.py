"""Which values of a recipe are paths, and the same recipe with absolute ones, also from other folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.loading import ResolvedRecipe, load_recipe
from orchestrator.config.recipe_paths import (
    follow_moved_folder,
    is_same_place,
    with_absolute_paths,
    without_data_places,
)

RECIPE = """\
workload: albef
batch: {micro_batches: 2, micro_batch_size: 8}
length: {steps: 3}
model: {preset: tiny}
text: {tokenizer: bert-base-uncased}
"""


def resolved(folder: Path, *overrides: str) -> ResolvedRecipe:
    path = folder / "mine.yaml"
    path.write_text(RECIPE)
    return load_recipe(path, overrides or ("data.train=a",))


def test_relative_paths_become_absolute_and_other_addresses_stay(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    recipe = resolved(
        tmp_path,
        "data.mix=[{uri: a}, {uri: 's3://b/c'}, {uri: /d}]",
        "data.held_out=held",
        "model.text_weights=weights",
        "model.vision_weights=on-the-hub",
        "start={checkpoint: imported}",
        "recovery.notices=file:gone",
    )
    values = with_absolute_paths(recipe, tmp_path).values()
    assert [mixed["uri"] for mixed in values["data"]["mix"]] == [f"{tmp_path}/a", "s3://b/c", "/d"]
    assert values["data"]["held_out"] == f"{tmp_path}/held"
    assert values["storage"]["uri"] == f"{tmp_path}/runs"
    assert values["tracking"]["uri"] == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert values["start"]["checkpoint"] == f"{tmp_path}/imported"
    assert values["recovery"]["notices"] == f"file:{tmp_path}/gone"
    assert values["model"]["text_weights"] == f"{tmp_path}/weights"
    assert values["model"]["vision_weights"] == "on-the-hub"
    assert values["text"]["tokenizer"] == "bert-base-uncased"


def test_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    recipe = with_absolute_paths(resolved(tmp_path), tmp_path)
    assert with_absolute_paths(recipe, tmp_path / "elsewhere") is recipe


def test_a_folder_named_like_a_choice_among_words_changes_no_choice(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    recipe = resolved(tmp_path)
    assert with_absolute_paths(recipe, tmp_path).values()["model"]["preset"] == recipe.values()["model"]["preset"]


@pytest.mark.parametrize("uri", ["environment", "databricks", "http://mlflow:5000", "postgresql://host/db"])
def test_addresses_of_mlflow_that_are_no_paths_stay(uri: str, tmp_path: Path) -> None:
    recipe = resolved(tmp_path, "data.train=a", f"tracking.uri={uri}")
    assert with_absolute_paths(recipe, tmp_path).recipe.tracking.uri == uri


def test_from_another_folder_a_relative_path_means_that_of_the_earlier_start(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "weights", home / "a", elsewhere / "a"):
        folder.mkdir(parents=True)
    written = ("data.train=a", "data.held_out=held", "model.text_weights=weights", "storage.uri=my/runs")
    before = with_absolute_paths(resolved(home, *written), home).values()
    now = with_absolute_paths(resolved(elsewhere, *written), elsewhere, before).values()
    assert now == before | {"storage": before["storage"] | {"uri": f"{elsewhere}/my/runs"}}
    other = with_absolute_paths(resolved(elsewhere, "data.train=b", "data.held_out=a"), elsewhere, before)
    assert (other.recipe.data.train, other.recipe.data.held_out) == (f"{elsewhere}/b", f"{elsewhere}/a")


def test_what_is_gone_from_the_earlier_folder_is_taken_from_this_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    earlier = {"data": {"train": "/gone/a", "held_out": "/gone/held"}}
    recipe = with_absolute_paths(resolved(tmp_path, "data.train=a", "data.held_out=held"), tmp_path, earlier)
    assert (recipe.recipe.data.train, recipe.recipe.data.held_out) == (f"{tmp_path}/a", "/gone/held")


def test_paths_follow_a_folder_that_they_moved_with(tmp_path: Path) -> None:
    (tmp_path / "new" / "a").mkdir(parents=True)
    recipe = with_absolute_paths(resolved(tmp_path, "data.train=a", "data.held_out=held"), tmp_path / "old")
    moved = follow_moved_folder(recipe, f"{tmp_path}/old/runs/mine", f"{tmp_path}/new/runs/mine").recipe
    assert moved.data.train == f"{tmp_path}/new/a"
    assert moved.data.held_out == f"{tmp_path}/old/held"


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("a", "/here/a", True),
        ("sqlite:///a", "sqlite:////here/a", True),
        ("a", "/there/a", False),
        (None, None, True),
        ("", "/here", False),
        ("s3://a", "/here/s3:/a", False),
        (3, 4, False),
    ],
)
def test_a_record_of_a_relative_path_is_understood(before: object, now: object, same: bool) -> None:
    assert is_same_place(before, now, Path("/here")) == same


def test_places_of_data_are_not_the_data(tmp_path: Path) -> None:
    mixes = [resolved(tmp_path, f"data.mix=[{{uri: {uri}, weight: 2}}]").values() for uri in ("a", "b")]
    assert without_data_places(mixes[0]) == without_data_places(mixes[1])
    assert without_data_places(mixes[0])["data"]["mix"] == [{"weight": 2}]
    assert mixes[0]["data"]["mix"][0]["uri"] == "a"
