"""Official checkpoints in and out again, all layouts at small sizes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from official_albef import HEADS, LAYOUTS, nested, optimizer_order, rows, shape_of, tensors
from torch import Tensor

from workloads.albef.config import AlbefConfig
from workloads.albef.retrieval import RetrievalConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import CheckpointFormat, ForeignCheckpoint, KeyedRandom, WorkloadError
from workloads.interop.albef_format import FORMAT
from workloads.interop.albef_layout import canonical_names, is_no_decay, trained_names
from workloads.interop.albef_state import meta_state_dict


def read(content: Any, folder: Path, overrides: Mapping[str, Any] = HEADS) -> ForeignCheckpoint:
    torch.save(content, folder / "in.pth")
    return FORMAT.read(folder / "in.pth", overrides)


def written(checkpoint: ForeignCheckpoint, folder: Path, flat: bool = False) -> Any:
    FORMAT.write(checkpoint, folder / "out.pth", flat)
    return torch.load(folder / "out.pth", weights_only=True)


def assert_same(actual: Any, expected: Any, path: str = "file") -> None:
    assert type(actual) is type(expected), path
    if isinstance(expected, Tensor):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), path
        assert torch.equal(actual, expected), path
    elif isinstance(expected, dict):
        assert list(actual) == list(expected), path
        for key, value in expected.items():
            assert_same(actual[key], value, f"{path}/{key}")
    else:
        assert actual == expected, path


@pytest.mark.parametrize("bare", [False, True], ids=["whole", "bare"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flat_file_returns_bit_for_bit(layout: str, bare: bool, tmp_path: Path) -> None:
    official = tensors(layout, bare)
    checkpoint = read(official, tmp_path)
    assert checkpoint.metadata["layout"] == layout
    assert_same(written(checkpoint, tmp_path), official)


@pytest.mark.parametrize("bare", [False, True], ids=["whole", "bare"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_nested_file_returns_bit_for_bit(layout: str, bare: bool, tmp_path: Path) -> None:
    official = nested(layout, bare)
    checkpoint = read(official, tmp_path)
    assert checkpoint.epochs == 5
    assert checkpoint.report.notes == ()
    assert_same(written(checkpoint, tmp_path), official)
    assert_same(written(checkpoint, tmp_path, flat=True), official["model"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tensor_is_accounted_for_and_the_state_is_whole(layout: str, tmp_path: Path) -> None:
    official = tensors(layout)
    checkpoint = read(official, tmp_path)
    report = checkpoint.report
    accounted = [*report.used, *report.tied, *report.aside, *report.left_over]
    assert sorted(accounted) == sorted(official)
    assert report.left_over == ()
    model = AlbefWorkload(checkpoint.config).build(torch.device("cpu"), KeyedRandom((0,)), pretrained=False)
    model.load_state_dict(dict(checkpoint.state))
    ours = {name for name in checkpoint.state if name not in {*report.missing, *report.copied}}
    assert len(ours) == len(report.used)


def test_the_pretraining_layout_leaves_nothing_open(tmp_path: Path) -> None:
    report = read(tensors("pretrain"), tmp_path).report
    assert (len(report.used), len(report.tied)) == (598, 6)
    assert (report.aside, report.missing, report.copied, report.resized, report.left_over) == ((), (), (), (), ())


@pytest.mark.parametrize(
    ("layout", "aside"),
    [
        ("retrieval", {"idx_queue"}),
        ("vqa", {"text_decoder", "text_decoder_m"}),
        ("ve", {"cls_head", "cls_head_m"}),
        ("nlvr", {"cls_head", "cls_head_m", "text_encoder", "text_encoder_m"}),
        ("nlvr_pretrain", {"ta_head", "text_encoder"}),
    ],
)
def test_what_the_model_has_no_place_for_is_kept_beside_it(layout: str, aside: set[str], tmp_path: Path) -> None:
    report = read(tensors(layout), tmp_path).report
    assert {name.partition(".")[0] for name in report.aside} == aside


def test_the_first_layer_of_an_nlvr_pair_is_ours(tmp_path: Path) -> None:
    official = tensors("nlvr")
    checkpoint = read(official, tmp_path)
    for ours, theirs in ((5, 5), (6, 6), (7, 8), (11, 16)):
        name = "encoder.layer.{}.output.dense.weight"
        expected = official[f"text_encoder.{name.format(theirs)}"]
        assert torch.equal(checkpoint.state[f"student.text_encoder.bert.{name.format(ours)}"], expected)
    assert "text_encoder.encoder.layer.17.output.dense.weight" in checkpoint.report.aside
    assert checkpoint.config.model.text.fusion_layers == 6


def test_sizes_are_those_of_the_file(tmp_path: Path) -> None:
    config = read(tensors("retrieval"), tmp_path).config
    assert isinstance(config, AlbefConfig)
    assert (config.model.image_size, config.model.vision.patch, config.model.vision.depth) == (12, 4, 2)
    assert (config.model.text.layers, config.model.text.vocabulary, config.model.text.positions) == (6, 120, 20)
    assert (config.model.embed_dim, config.contrastive.queue_size) == (8, 12)


def test_another_image_size_resizes_positions_of_student_and_teacher(tmp_path: Path) -> None:
    checkpoint = read(nested("pretrain"), tmp_path, {"model": {**HEADS["model"], "image_size": 16}})
    assert checkpoint.report.resized == ("visual_encoder.pos_embed", "visual_encoder_m.pos_embed")
    assert checkpoint.state["student.visual_encoder.pos_embed"].shape == (1, 17, 16)
    assert checkpoint.state["teacher.visual_encoder.pos_embed"].shape == (1, 17, 16)
    assert "exp_avg/student.visual_encoder.pos_embed" not in checkpoint.optimizer_state
    assert "exp_avg/student.visual_encoder.cls_token" in checkpoint.optimizer_state
    assert any("visual_encoder.pos_embed is left out" in note for note in checkpoint.report.notes)
    written_model = written(checkpoint, tmp_path)["model"]
    assert written_model["visual_encoder.pos_embed"].shape == (1, 17, 16)


def test_a_missing_teacher_is_a_copy_and_a_missing_queue_is_new(tmp_path: Path) -> None:
    checkpoint = read(tensors("pretrain", bare=True), tmp_path, {**HEADS, "contrastive": {"queue_size": 30}})
    assert checkpoint.report.missing == ("queue.image_queue", "queue.text_queue", "queue.queue_ptr")
    assert all(name.startswith("teacher.") for name in checkpoint.report.copied)
    for name in checkpoint.report.copied:
        assert torch.equal(checkpoint.state[name], checkpoint.state[name.replace("teacher.", "student.", 1)])
    assert checkpoint.state["queue.image_queue"].shape == (8, 30)
    assert torch.allclose(checkpoint.state["queue.image_queue"].norm(dim=0), torch.ones(30))
    again = read(tensors("pretrain", bare=True), tmp_path, {**HEADS, "contrastive": {"queue_size": 30}})
    assert_same(dict(again.state), dict(checkpoint.state))


def test_a_queue_of_another_size_starts_anew_and_is_kept(tmp_path: Path) -> None:
    official = tensors("pretrain")
    checkpoint = read(official, tmp_path, {**HEADS, "contrastive": {"queue_size": 30}})
    assert checkpoint.state["queue.image_queue"].shape == (8, 30)
    assert int(checkpoint.state["queue.queue_ptr"]) == 0
    assert "queue" in checkpoint.report.notes[0]
    assert_same(written(checkpoint, tmp_path), official)


def test_an_unequal_copy_is_said_and_kept(tmp_path: Path) -> None:
    official = tensors("pretrain")
    official["text_encoder.cls.predictions.decoder.bias"] = torch.ones(120)
    checkpoint = read(official, tmp_path)
    assert "decoder.bias differs from what it is tied to" in checkpoint.report.notes[0]
    assert_same(written(checkpoint, tmp_path), official)


def test_unknown_tensors_are_left_over_and_kept(tmp_path: Path) -> None:
    official = {**tensors("retrieval"), "my_head.weight": torch.ones(2, 3)}
    checkpoint = read(official, tmp_path)
    assert checkpoint.report.left_over == ("my_head.weight",)
    assert_same(written(checkpoint, tmp_path), official)


def test_state_of_other_parameters_is_said_and_left_out(tmp_path: Path) -> None:
    official = nested("pretrain")
    official["optimizer"]["param_groups"][1]["params"].pop()
    checkpoint = read(official, tmp_path)
    assert not checkpoint.optimizer_state
    assert "of 298 parameters and the model has 299" in checkpoint.report.notes[0]
    assert "optimizer" not in written(checkpoint, tmp_path)


def test_names_and_order_of_the_base_model_are_the_official_ones() -> None:
    names = canonical_names(list(meta_state_dict(AlbefConfig())))
    official = rows("pretrain")
    assert names == [row["key"] for row in official]
    tied = [row["key"] for row in official if row["shares"]]
    shapes = {row["key"]: torch.Size(shape_of(row, narrow=False)) for row in official}
    trained = trained_names(names, shapes, tied)
    assert trained == optimizer_order()
    assert sum(is_no_decay(name, shapes[name]) for name in trained) == 264


def test_names_and_order_of_the_fine_tuned_base_model_are_the_official_ones() -> None:
    names = canonical_names(list(meta_state_dict(RetrievalConfig())), "retrieval")
    assert names == [row["key"] for row in rows("retrieval")]


def small_model(**values: Any) -> tuple[AlbefWorkload, torch.nn.Module]:
    sizes = {"vision": {"patch": 4, "width": 16, "depth": 1, "heads": 2}, "image_size": 8, "embed_dim": 8}
    text = {"width": 16, "layers": 1, "fusion_layers": 1, "heads": 2, "vocabulary": 120, "positions": 20}
    config = {"model": {**sizes, "text": text, **values}, "contrastive": {"queue_size": 12}}
    workload = AlbefWorkload(AlbefConfig.model_validate(config))
    return workload, workload.build(torch.device("cpu"), KeyedRandom((0,)), pretrained=False)


def optimizer_state_of(model: torch.nn.Module) -> dict[str, Tensor]:
    entries = ("step", "exp_avg", "exp_avg_sq")
    student = {f"student.{name}": parameter for name, parameter in model.student.named_parameters()}
    return {
        f"{entry}/{name}": torch.tensor(7.0) if entry == "step" else torch.rand_like(parameter)
        for name, parameter in student.items()
        for entry in entries
    }


def test_a_model_trained_here_is_written_as_an_official_file_and_returns(tmp_path: Path) -> None:
    workload, model = small_model()
    options = {"learning_rate": 1e-4, "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.02}
    checkpoint = ForeignCheckpoint(
        "albef", workload.config, model.state_dict(), optimizer_state_of(model), epochs=3.2, hyperparameters=options
    )
    content = written(checkpoint, tmp_path)
    assert list(content) == ["model", "optimizer", "lr_scheduler", "config", "epoch"]
    assert content["epoch"] == 2
    decoder = content["model"]["text_encoder.cls.predictions.decoder.weight"]
    assert decoder.data_ptr() == content["model"]["text_encoder.bert.embeddings.word_embeddings.weight"].data_ptr()
    _assert_torch_takes(content)
    again = read(content, tmp_path)
    assert_same(dict(again.state), {name: again.state[name] for name in again.state})
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state[name], tensor), name
    assert_same(
        {name: again.optimizer_state[name] for name in sorted(again.optimizer_state)},
        dict(sorted(checkpoint.optimizer_state.items())),
    )
    assert again.report.aside == again.report.missing == again.report.copied == ()


def _assert_torch_takes(content: dict[str, Any]) -> None:
    """The optimiser of the official recipe loads the state: parameters in two groups, in their order."""
    tied = [name for name in content["model"] if name.endswith(("decoder.weight", "decoder.bias", "position_ids"))]
    shapes = {name: tensor.shape for name, tensor in content["model"].items()}
    trained = [torch.nn.Parameter(torch.zeros(shapes[name])) for name in trained_names(list(shapes), shapes, tied)]
    spared = len(content["optimizer"]["param_groups"][0]["params"])
    optimizer = torch.optim.AdamW([{"params": trained[:spared], "weight_decay": 0}, {"params": trained[spared:]}])
    optimizer.load_state_dict(content["optimizer"])
    assert all(optimizer.state[parameter]["exp_avg"].shape == parameter.shape for parameter in trained)


def test_a_flat_file_of_a_model_trained_here_holds_tensors_alone(tmp_path: Path) -> None:
    workload, model = small_model()
    content = written(ForeignCheckpoint("albef", workload.config, model.state_dict()), tmp_path, flat=True)
    assert all(isinstance(value, Tensor) for value in content.values())


@pytest.mark.parametrize("lock", [{"vision": "all", "text": "all"}, {"vision": 1}])
def test_the_teacher_of_a_locked_model_is_written_whole(lock: dict[str, Any], tmp_path: Path) -> None:
    workload, model = small_model(lock=lock)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1)
    state = model.state_dict()
    content = written(ForeignCheckpoint("albef", workload.config, state), tmp_path, flat=True)
    assert list(content) == canonical_names(list(meta_state_dict(small_model()[0].config)))
    patches = "visual_encoder{}.patch_embed.proj.weight"
    assert f"teacher.{patches.format('')}" not in state
    assert torch.equal(content[patches.format("_m")], content[patches.format("")])
    projection = content["vision_proj_m.weight"]
    assert torch.equal(projection, state["teacher.vision_proj.weight"])
    assert not torch.equal(projection, content["vision_proj.weight"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"vision": {"name": "test_vit"}, "image_size": 32}, "model.vision.name: the image encoder is test_vit, and"),
        ({"image_size": [8, 16]}, "model.image_size: images are of 8 x 16 pixels, and the official code knows squares"),
    ],
)
def test_what_the_official_code_could_not_build_is_refused(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    workload, model = small_model(**values)
    with pytest.raises(WorkloadError, match=f"{reason}.*--format safetensors"):
        written(ForeignCheckpoint("albef", workload.config, model.state_dict()), tmp_path)


def test_positions_follow_images_that_are_not_square(tmp_path: Path) -> None:
    checkpoint = read(tensors("pretrain"), tmp_path, {"model": {**HEADS["model"], "image_size": [8, 16]}})
    assert checkpoint.report.resized == ("visual_encoder.pos_embed", "visual_encoder_m.pos_embed")
    assert checkpoint.state["student.visual_encoder.pos_embed"].shape == (1, 1 + 2 * 4, 16)
    assert checkpoint.config.model.image_hw == (8, 16)
    model = AlbefWorkload(checkpoint.config).build(torch.device("cpu"), KeyedRandom((0,)), pretrained=False)
    model.load_state_dict(dict(checkpoint.state))


def test_a_checkpoint_imported_for_a_locked_recipe_keeps_its_teacher(tmp_path: Path) -> None:
    official = nested("pretrain")
    locked = {"model": {**HEADS["model"], "lock": {"vision": "all", "text": "all"}}}
    checkpoint = read(official, tmp_path, locked)
    assert (checkpoint.report.aside, checkpoint.report.left_over, checkpoint.report.missing) == ((), (), ())
    model = AlbefWorkload(checkpoint.config).build(torch.device("cpu"), KeyedRandom((0,)), pretrained=False)
    model.load_state_dict(dict(checkpoint.state))
    assert not [name for name, _ in model.teacher.named_parameters() if name.startswith("visual_encoder.")]
    assert_same(written(checkpoint, tmp_path), official)


def test_a_model_fine_tuned_here_is_written_in_the_layout_of_retrieval(tmp_path: Path) -> None:
    pretrained, _ = small_model()
    values = pretrained.config.model_dump(include={"model", "contrastive"})
    workload = AlbefWorkload(RetrievalConfig.model_validate(values))
    model = workload.build(torch.device("cpu"), KeyedRandom((0,)), pretrained=False)
    model.get_buffer("queue.idx_queue")[0, :2] = torch.tensor([2**62, 5])
    official = written(ForeignCheckpoint("albef-retrieval", workload.config, model.state_dict()), tmp_path)["model"]
    assert official["idx_queue"].tolist() == [[2**62, 5, *[-100] * 10]]
    assert "text_encoder.encoder.layer.1.crossattention.self.key.weight" in official
    assert not any(".cls." in name or ".bert." in name for name in official)
    again = read(official, tmp_path)
    assert again.metadata["layout"] == "retrieval"
    ours = model.state_dict()
    shared = {name: tensor for name, tensor in again.state.items() if ".cls.predictions." not in name}
    assert_same(shared, {name: ours[name] for name in shared})


def test_the_format_keeps_the_contract() -> None:
    assert isinstance(FORMAT, CheckpointFormat)


def test_another_workload_is_refused(tmp_path: Path) -> None:
    workload, model = small_model()
    checkpoint = replace(ForeignCheckpoint("albef", workload.config, model.state_dict()), workload="other")
    with pytest.raises(Exception, match="only models of the workload albef"):
        written(checkpoint, tmp_path)
