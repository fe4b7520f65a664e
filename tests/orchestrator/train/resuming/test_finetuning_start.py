"""Runs of fine-tuning that start from pre-training, from official files and from each other."""

from pathlib import Path

import pytest
import torch
from official_albef import nested, tensors
from saving import save_checkpoint
from shards import write_shards
from small_recipes import IMPORTED
from starts import begun, import_official, save

from orchestrator.config.errors import ConfigError
from orchestrator.config.loading import load_recipe
from orchestrator.storage.location import locate
from orchestrator.train.checkpoints.load import load_checkpoint, optimizer_tensors
from orchestrator.train.checkpoints.manifest import RunState
from orchestrator.train.plan import Plan, check_files, make_plan
from workloads.nn.vision import resize_positions

POSITIONS = ("student.visual_encoder.pos_embed", "teacher.visual_encoder.pos_embed")
IMAGE_IDS = "queue.idx_queue"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, recipes of both workloads, and imports of pre-training and of the official fine-tuning for retrieval."""
    folder = tmp_path_factory.mktemp("user")
    write_shards(str(folder / "data"), 50)
    (folder / "pretrain.yaml").write_text(IMPORTED)
    (folder / "retrieval.yaml").write_text(IMPORTED.replace("workload: albef", "workload: albef-retrieval"))
    for name, content in {"pretrained": nested("pretrain"), "finetuned": tensors("retrieval")}.items():
        import_official(folder, name, content)
    return folder


def plan_of(folder: Path, storage: Path, start: object, *overrides: str, recipe: str = "retrieval") -> Plan:
    places = [f"data.train={folder / 'data' / 'train'}", f"storage.uri={storage}", f"start.checkpoint={start}"]
    return make_plan(load_recipe(folder / f"{recipe}.yaml", [*places, *overrides]))


@pytest.mark.parametrize("name", ["pretrained", "finetuned"])
def test_an_official_checkpoint_on_larger_images(folder: Path, tmp_path: Path, name: str) -> None:
    size = 16
    plan = plan_of(folder, tmp_path, folder / name, f"model.image_size={size}")
    check_files(plan, new=True)
    model, _, first_step = begun(plan)
    stored, state = dict(load_checkpoint(locate(str(folder / name))).model), model.state_dict()
    assert first_step == 0
    assert state.pop(IMAGE_IDS).eq(-100).all()
    assert state.keys() == stored.keys()
    for part, tensor in stored.items():
        expected = resize_positions(tensor, (4, 4)) if part in POSITIONS else tensor
        assert torch.equal(state[part], expected), part
    assert plan.describe()["starts_from"] == f"{folder / name} (weights)"


def test_our_own_pre_training_and_from_there_another_fine_tuning(folder: Path, tmp_path: Path) -> None:
    pretraining = plan_of(folder, tmp_path, folder / "pretrained", recipe="pretrain")
    place = save(pretraining, 40, *begun(pretraining)[:2])
    first = plan_of(folder, tmp_path, place, "name=first", "model.image_size=12")
    model, optimizer, _ = begun(first)
    assert model.state_dict()[POSITIONS[0]].shape == (1, 10, 16)
    model.get_buffer(IMAGE_IDS)[0, :3] = torch.tensor([2**62, 7, 2**62 + 1])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    place = save(first, 30, model, optimizer)
    again, _, first_step = begun(plan_of(folder, tmp_path, place, "name=second", "model.image_size=16"))
    assert first_step == 0
    assert torch.equal(again.state_dict()[IMAGE_IDS], model.state_dict()[IMAGE_IDS])
    everything = plan_of(folder, tmp_path, place, "name=third", "model.image_size=12", "start.take=everything")
    continued, moments, first_step = begun(everything)
    assert first_step == 30
    assert torch.equal(continued.state_dict()[IMAGE_IDS], model.state_dict()[IMAGE_IDS])
    assert optimizer_tensors(moments, continued).keys() == optimizer_tensors(optimizer, model).keys()


def test_a_resumed_run_has_its_image_ids(folder: Path, tmp_path: Path) -> None:
    plan = plan_of(folder, tmp_path, folder / "pretrained", "model.image_size=12")
    model, optimizer, _ = begun(plan)
    model.get_buffer(IMAGE_IDS)[0, 5] = 2**62 + 3
    save(plan, 8, model, optimizer)
    again, _, first_step = begun(plan)
    assert first_step == 8
    assert again.get_buffer(IMAGE_IDS).tolist() == model.get_buffer(IMAGE_IDS).tolist()


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        (
            "pretrained",
            ["start.take=everything"],
            r"start.take: \S+ cannot be continued .*: it is of the workload 'albef'",
        ),
        ("pretrained", ["contrastive.queue_size=30"], r"of another model: .*Set contrastive.queue_size=12"),
        ("pretrained", ["model.text.heads=4"], r"model.text.heads is 2 there and 4 here"),
        ("finetuned", ["model.embed_dim=16"], r"model.embed_dim is 8 there and 16 here"),
        ("nowhere", [], r"nowhere is no checkpoint"),
    ],
)
def test_an_unfit_checkpoint_is_refused_before_anything_starts(
    folder: Path, tmp_path: Path, name: str, overrides: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_of(folder, tmp_path, folder / name, "model.image_size=16", *overrides)


def test_optimiser_state_of_another_image_size_is_refused(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path, folder / "pretrained", "model.image_size=12")
    place = save(first, 30, *begun(first)[:2])
    with pytest.raises(ConfigError, match=r"model.image_size is 12 there and 16 here; write take: weights"):
        plan_of(folder, tmp_path, place, "name=second", "model.image_size=16", "start.take=everything")


def test_pre_training_does_not_start_from_fine_tuning(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path, folder / "pretrained", "model.image_size=12")
    place = save(first, 30, *begun(first)[:2])
    with pytest.raises(ConfigError, match=r"is of the workload 'albef-retrieval', the recipe's is 'albef'; choose"):
        plan_of(folder, tmp_path, place, "name=second", recipe="pretrain")


def test_a_strange_workload_is_refused_with_those_that_are_possible(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path, folder / "pretrained", "model.image_size=12")
    model, optimizer, _ = begun(first)
    state = RunState(30, 42, "", "", "id", "paced", {}, 1.0)
    place = save_checkpoint(first.run, state, model.state_dict(), optimizer_tensors(optimizer, model)).path
    with pytest.raises(ConfigError, match=r"'paced', .* which starts from checkpoints of albef-retrieval and albef; "):
        plan_of(folder, tmp_path, place, "name=second", "model.image_size=12")


def test_the_plan_says_that_samples_have_no_image_id(folder: Path, tmp_path: Path) -> None:
    start = [folder / "pretrained", "model.image_size=12"]
    (warning,) = plan_of(folder, tmp_path, *start).warnings
    assert warning.startswith(f"{folder / 'data' / 'train'}: samples have no image id")
    others = plan_of(folder, tmp_path, folder / "pretrained", recipe="pretrain").warnings
    assert not any("image id" in other for other in others)


def test_positions_that_cannot_be_resized_are_refused_by_the_dry_run(folder: Path, tmp_path: Path) -> None:
    first = plan_of(folder, tmp_path, folder / "pretrained", "model.image_size=[8, 16]")
    place = save(first, 30, *begun(first)[:2])
    plan = plan_of(folder, tmp_path, place, "name=second", "model.image_size=16")
    with pytest.raises(ConfigError, match=r"start.checkpoint: \S+ does not fit: model.image_size: only position"):
        check_files(plan, new=True)
