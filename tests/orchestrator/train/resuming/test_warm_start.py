"""Runs that start from another checkpoint: an imported one, or one of another run."""

from pathlib import Path

import pytest
import torch
from official_albef import HEADS, nested, tensors
from pyarrow import fs
from saving import rewrite_as_version_two, save_checkpoint
from shards import write_shards
from small_recipes import IMPORTED
from starts import begun, import_official, save

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_recipe
from orchestrator.storage.location import Location, locate
from orchestrator.train.checkpoints.load import load_checkpoint, optimizer_tensors
from orchestrator.train.checkpoints.manifest import CheckpointError, RunState
from orchestrator.train.convert import write_import
from orchestrator.train.plan import Plan, make_plan
from orchestrator.train.resume import continued_run, new_run
from workloads.interop.albef_format import FORMAT

EPOCHS, SAMPLES, BATCH = 5, 50, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a recipe and two imported checkpoints: `whole` with optimiser, `bare` with the weights alone."""
    folder = tmp_path_factory.mktemp("user")
    write_shards(str(folder / "data"), SAMPLES)
    (folder / "run.yaml").write_text(IMPORTED)
    for name, content in {"whole": nested("pretrain"), "bare": tensors("pretrain")}.items():
        import_official(folder, name, content)
    return folder


def plan_of(folder: Path, storage: Path, *overrides: str) -> Plan:
    places = [f"data.train={folder / 'data' / 'train'}", f"storage.uri={storage}"]
    return make_plan(load_recipe(folder / "run.yaml", [*places, *overrides]))


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_weights_are_taken_and_the_optimiser_is_new(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path, f"start.checkpoint={folder / 'whole'}")
    model, optimizer, first_step = begun(plan)
    imported = load_checkpoint(locate(str(folder / "whole")))
    assert_equal(model.state_dict(), dict(imported.model))
    assert (first_step, new_run(plan).first_step, len(optimizer.state)) == (0, 0, 0)
    assert plan.describe()["starts_from"] == f"{folder / 'whole'} (weights)"


def test_everything_continues_an_official_run_at_its_step(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path, f"start.checkpoint={folder / 'whole'}", "start.take=everything")
    model, optimizer, first_step = begun(plan)
    imported = load_checkpoint(locate(str(folder / "whole")))
    assert_equal(model.state_dict(), dict(imported.model))
    assert_equal(optimizer_tensors(optimizer, model), dict(imported.optimizer))
    assert first_step == new_run(plan).first_step == round(EPOCHS * SAMPLES / BATCH)


def test_a_checkpoint_of_another_run_continues_at_its_own_step(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path, f"start.checkpoint={folder / 'whole'}", "start.take=everything")
    model, optimizer, _ = begun(first)
    place = save(first, 40, model, optimizer)
    second = plan_of(folder, tmp_path, "name=second", f"start.checkpoint={place}", "start.take=everything")
    again, other, first_step = begun(second)
    assert first_step == 40
    assert_equal(again.state_dict(), model.state_dict())
    assert_equal(optimizer_tensors(other, again), optimizer_tensors(optimizer, model))


def test_checkpoints_of_an_older_version_are_refused(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path, f"start.checkpoint={folder / 'whole'}", "start.take=everything")
    model, optimizer, _ = begun(first)
    place = save(first, 40, model, optimizer)
    rewrite_as_version_two(locate(place))
    with pytest.raises(CheckpointError, match="format version 2 is not supported"):
        begun(first)
    with pytest.raises(CheckpointError, match="format version 2 is not supported"):
        plan_of(folder, tmp_path, "name=new", f"start.checkpoint={place}", "start.take=everything")


def test_keys_that_a_checkpoint_is_older_than_have_their_defaults_there(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path, f"start.checkpoint={folder / 'whole'}", "start.take=everything")
    model, optimizer, _ = begun(first)
    config = first.resolved.workload.model_dump(mode="json")
    del config["model"]["vision"]["norm_epsilon"]
    state = RunState(40, 42, first.resolved.digest(), first.data.digest, "id", "albef", config, 5.0)
    place = save_checkpoint(first.run, state, model.state_dict(), optimizer_tensors(optimizer, model)).path
    start = [f"start.checkpoint={place}", "name=second"]
    assert plan_of(folder, tmp_path, *start).warm_start is not None
    with pytest.raises(ConfigError, match=r"norm_epsilon is 1e-06 there and 1e-05 here"):
        plan_of(folder, tmp_path, *start, "model.vision.norm_epsilon=1e-5")


LOCKED = ("model.lock.vision=all", "model.lock.text=3")
LOCKED_WEIGHT = "visual_encoder.blocks.0.attn.qkv.weight"


def locked_names(model: torch.nn.Module) -> set[str]:
    return {name for name, value in model.student.named_parameters() if not value.requires_grad}


def test_a_locked_run_starts_from_an_unlocked_checkpoint(folder: Path, tmp_path: Path) -> None:
    start = [f"start.checkpoint={folder / 'whole'}", "start.take=everything"]
    model, optimizer, _ = begun(plan_of(folder, tmp_path, *start, *LOCKED))
    stored = load_checkpoint(locate(str(folder / "whole")))
    assert LOCKED_WEIGHT in locked_names(model)
    assert f"teacher.{LOCKED_WEIGHT}" not in model.state_dict()
    assert_equal(model.state_dict(), {name: stored.model[name] for name in model.state_dict()})
    locked = tuple(f"/student.{name}" for name in locked_names(model))
    trained = {name: value for name, value in stored.optimizer.items() if not name.endswith(locked)}
    assert 0 < len(trained) < len(stored.optimizer)
    assert_equal(optimizer_tensors(optimizer, model), trained)


def test_an_unlocked_run_starts_from_a_locked_checkpoint(folder: Path, tmp_path: Path) -> None:
    """The teacher gets the student's copy of what was locked, whose optimiser state begins anew."""
    start = [f"start.checkpoint={folder / 'whole'}", "start.take=everything"]
    first = plan_of(folder, tmp_path, *start, *LOCKED)
    locked, optimizer, _ = begun(first)
    place = save(first, 40, locked, optimizer)
    again = ["name=second", f"start.checkpoint={place}", "start.take=everything"]
    model, restored, first_step = begun(plan_of(folder, tmp_path, *again))
    state = model.state_dict()
    assert (locked_names(model), first_step) == (set(), 40)
    assert_equal({name: state[name] for name in locked.state_dict()}, locked.state_dict())
    assert torch.equal(state[f"teacher.{LOCKED_WEIGHT}"], locked.state_dict()[f"student.{LOCKED_WEIGHT}"])
    assert_equal(optimizer_tensors(restored, model), optimizer_tensors(optimizer, locked))


def test_a_resumed_run_prefers_its_own_checkpoint(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path, f"start.checkpoint={folder / 'whole'}", "start.take=everything")
    model, optimizer, _ = begun(plan)
    with torch.no_grad():
        model.student.temp.fill_(0.3)
    save(plan, 35, model, optimizer)
    again, _, first_step = begun(plan)
    assert first_step == 35
    assert float(again.state_dict()["student.temp"]) == pytest.approx(0.3)


def test_a_run_that_was_stopped_before_its_first_checkpoint_resumes_at_the_origin(folder: Path, tmp_path: Path) -> None:
    from orchestrator.storage.run_folder import RunFile
    from orchestrator.train.plan import recipe_yaml

    plan = plan_of(folder, tmp_path, f"start.checkpoint={folder / 'whole'}", "start.take=everything")
    digest, index = plan.resolved.digest(), plan.data.digest
    plan.run.recipe.write(recipe_yaml(plan.resolved).encode())
    plan.run.write(RunFile("run", digest, index, "sqlite:///x", "id", plan.steps, "2026-01-01", "KILLED"))
    assert continued_run(plan).first_step == round(EPOCHS * SAMPLES / BATCH)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["start.checkpoint={0}/nowhere"], r"nowhere is no checkpoint \(no manifest.json\); name RUN/checkpoints"),
        (
            ["start.checkpoint={0}/whole.pth"],
            r"whole.pth is a file, .*`fuseray import-checkpoint albef \S+whole.pth OUT`",
        ),
        (["start.checkpoint={0}/bare", "start.take=everything"], "holds no optimiser state; write take: weights"),
        (
            ["start.checkpoint={0}/whole", "start.take=everything", "length.epochs=2"],
            "has done 31 steps and the recipe has 13; raise length",
        ),
        (
            ["start.checkpoint={0}/whole", "model.image_size=16", "contrastive.queue_size=30"],
            r"model.image_size is 8 there and 16 here; .*Set model.image_size=8 contrastive.queue_size=12",
        ),
        (["start.checkpoint={0}/whole", "model.text.heads=4"], "model.text.heads is 2 there and 4 here"),
    ],
)
def test_an_unfit_checkpoint_is_refused_before_anything_starts(
    folder: Path, tmp_path: Path, overrides: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_of(folder, tmp_path, *(override.format(folder) for override in overrides))


def test_a_runs_folder_is_refused_with_the_checkpoint_to_name(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path)
    save(plan, 3, torch.nn.Linear(1, 1), torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]))
    with pytest.raises(ConfigError, match=r"it is a run's folder; name a checkpoint in it, .*step-00000003"):
        plan_of(folder, tmp_path, f"start.checkpoint={plan.run.root.path}")


def test_an_import_reaches_storage_that_is_not_local(folder: Path, tmp_path: Path) -> None:
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    (tmp_path / "imported").mkdir()  # object stores need no folders
    place = Location(elsewhere, "imported", "elsewhere://imported")
    write_import(FORMAT.read(folder / "whole.pth", HEADS), place, "albef", "whole.pth")
    found, expected = load_checkpoint(place), load_checkpoint(locate(str(folder / "whole")))
    assert found.state == expected.state
    assert_equal(dict(found.model), dict(expected.model))
    assert_equal(dict(found.optimizer), dict(expected.optimizer))
