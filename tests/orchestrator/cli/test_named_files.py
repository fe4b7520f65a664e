"""Recipes, sweeps and clusters are found by name wherever one is named; a file of the user's own goes first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.files import (
    cluster_file,
    clusters_command,
    load_and_say,
    recipe_file,
    recipes_command,
    sweep_file,
)
from orchestrator.cli.main import cli
from orchestrator.config.errors import ConfigError, RecipeError
from orchestrator.config.loading import load_recipe
from orchestrator.config.named_files import CLUSTERS, RECIPES, SWEEPS, find_file
from orchestrator.config.sweep import load_sweep

REPOSITORY = Path(__file__).parents[3]
SHIPPED = REPOSITORY / "workloads" / "recipes"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("find", "written", "file"),
    [
        (recipe_file, "emoji-demo", SHIPPED / "emoji-demo.yaml"),
        (recipe_file, "emoji-demo.yaml", SHIPPED / "emoji-demo.yaml"),
        (recipe_file, "ablation/albef-4m-itc", SHIPPED / "ablation/albef-4m-itc.yaml"),
        (recipe_file, "albef-4m-itc", SHIPPED / "ablation/albef-4m-itc.yaml"),
        (sweep_file, "emoji-alpha", SHIPPED / "sweeps/emoji-alpha.yaml"),
        (cluster_file, "aws-spot-h100", REPOSITORY / "clusters/aws-spot-h100.yaml"),
        (cluster_file, "kuberay/raycluster", REPOSITORY / "clusters/kuberay/raycluster.yaml"),
    ],
)
def test_what_comes_with_fuseray_is_found_by_name(
    find: Callable[[str], Path], written: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find(written).samefile(file)
    assert capsys.readouterr().err.endswith(f" {written}: {file}, which comes with Fuseray\n")


def test_every_file_that_comes_with_fuseray_has_a_name_of_its_own() -> None:
    for kind in (RECIPES, SWEEPS, CLUSTERS):
        stems = [path.stem for path in kind.files().values()]
        assert len(stems) == len(set(stems))
    assert not RECIPES.files().keys() & SWEEPS.files().keys()


def test_a_file_of_ones_own_goes_first_and_that_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "clusters").mkdir()
    for name in ("emoji-demo.yaml", "mine.yaml", "clusters/local.yaml", "clusters/lab.yaml"):
        (folder / name).touch()
    expected = {
        "emoji-demo": "recipe emoji-demo: emoji-demo.yaml, a file of your own; another comes with Fuseray\n",
        "emoji-demo.yaml": "recipe emoji-demo.yaml: emoji-demo.yaml, a file of your own; another comes with Fuseray\n",
        "mine": "recipe mine: mine.yaml\n",
        "mine.yaml": "",
    }
    for written, note in expected.items():
        assert recipe_file(written) == Path(written).with_suffix(".yaml")
        assert capsys.readouterr().err == note
    assert [cluster_file(name) for name in ("local", "lab", "clusters/lab.yaml")] == [
        Path(f"clusters/{name}.yaml") for name in ("local", "lab", "lab")
    ]


def test_a_folder_of_the_name_is_not_taken_for_the_file(folder: Path) -> None:
    (folder / "emoji-demo").mkdir()
    assert recipe_file("emoji-demo").samefile(SHIPPED / "emoji-demo.yaml")


@pytest.mark.parametrize(
    ("find", "written", "hint"),
    [
        (recipe_file, "emoji-dmo", "did you mean emoji-demo?"),
        (sweep_file, "zzz", "`fuseray recipes` lists those that come with Fuseray."),
        (cluster_file, "locl", "did you mean local?"),
    ],
)
def test_what_is_not_there_is_refused_with_the_closest_name(
    find: Callable[[str], Path], written: str, hint: str
) -> None:
    with pytest.raises((click.BadParameter, ConfigError)) as caught:
        find(written)
    assert str(caught.value).startswith(f"there is neither a file {written} nor a ")
    assert str(caught.value).endswith(hint)


def test_a_recipe_extends_and_a_sweep_searches_what_is_named(folder: Path) -> None:
    (folder / "mine.yaml").write_text("extends: emoji-demo\nseed: 7\n")
    assert (
        load_recipe(folder / "mine.yaml").values()["model"]
        == load_recipe(SHIPPED / "emoji-demo.yaml").values()["model"]
    )
    (folder / "sweep.yaml").write_text((SHIPPED / "sweeps/emoji-alpha.yaml").read_text())
    assert load_sweep(folder / "sweep.yaml").base.to_dict()["batch"]["micro_batches"] == 2
    (folder / "emoji-demo.yaml").write_text("extends: mine\n")
    with pytest.raises(RecipeError, match="in a circle"):
        load_recipe(folder / "emoji-demo.yaml")
    (folder / "wrong.yaml").write_text("extends: emoji-dmo\n")
    with pytest.raises(RecipeError, match=r"wrong\.yaml:1: extends: .* did you mean emoji-demo\?"):
        load_recipe(folder / "wrong.yaml")


def test_which_files_were_taken_for_names_inside_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.yaml").write_text("extends: base.yaml\n")
    (folder / "base.yaml").write_text("extends: emoji-demo.yaml\n")
    load_and_say(folder / "mine.yaml", [])
    taken = f"recipe emoji-demo.yaml: {SHIPPED / 'emoji-demo.yaml'}, which comes with Fuseray"
    assert capsys.readouterr().err == f"{taken}\n"
    (folder / "sweep.yaml").write_text((SHIPPED / "sweeps/emoji-alpha.yaml").read_text())
    assert load_sweep(folder / "sweep.yaml").base.notes == (taken,)


def invoke(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize(("command", "kinds"), [(recipes_command, (RECIPES, SWEEPS)), (clusters_command, (CLUSTERS,))])
def test_names_are_listed_and_files_copied(command: click.Command, kinds: tuple, folder: Path) -> None:
    names = {name: path for kind in kinds for name, path in kind.files().items()}
    listed = invoke(command).stdout
    for name, path in names.items():
        assert f"  {name} " in listed
        assert invoke(command, name).stdout.rstrip() == path.read_text().rstrip()
        assert invoke(command, name, "copies").exit_code == 0
        assert Path("copies", path.name).read_text() == path.read_text()
    values = json.loads(invoke(command, "--json").stdout)
    assert {name: path for group in values.values() for name, path in group.items()} == {
        name: str(path) for name, path in names.items()
    }


def test_copies_replace_nothing_and_mean_the_same(folder: Path) -> None:
    assert invoke(recipes_command, "emoji-demo", "deep/mine.yaml").exit_code == 0
    again = invoke(recipes_command, "emoji-demo", "deep/mine.yaml")
    assert isinstance(again.exception, ConfigError)
    assert "deep/mine.yaml: is there already" in str(again.exception)
    assert isinstance(invoke(recipes_command, "emoji-dmo", "x").exception, ConfigError)
    for name, path in RECIPES.files().items():
        invoke(recipes_command, name, "copies")
        copy = load_recipe(folder / "copies" / path.name, ["data.train=x"])
        assert copy.digest() == load_recipe(path, ["data.train=x"]).digest()


@pytest.mark.parametrize("verb", ["train", "plan", "submit", "sweep run", "up", "down", "dashboard", "jobs", "logs"])
def test_every_verb_takes_names(verb: str) -> None:
    command: click.Command = cli
    for word in verb.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word) or command
    types = {getattr(parameter.type, "func", None) for parameter in command.params}
    assert types & {recipe_file, cluster_file}


def test_paths_are_relative_to_the_file_that_names_them(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "emoji-demo.yaml").touch()
    assert find_file(RECIPES, "emoji-demo", folder / "deep").path == folder / "deep" / "emoji-demo.yaml"
    assert find_file(RECIPES, "emoji-demo").path.samefile(SHIPPED / "emoji-demo.yaml")
