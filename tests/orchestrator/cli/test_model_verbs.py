"""Official checkpoints in, models out, as a user meets it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from official_albef import LAYOUTS, nested, tensors
from saving import rewrite_as_version_two, save_checkpoint
from shards import write_shards

from orchestrator.cli.main import cli
from orchestrator.config.errors import ConfigError, FuserayError
from orchestrator.storage.location import locate
from orchestrator.storage.run_folder import RunFile, RunFolder
from orchestrator.train.checkpoints.load import load_checkpoint
from orchestrator.train.checkpoints.manifest import CheckpointError, RunState
from workloads.contract import WorkloadError

SIZES = ("model.vision.heads=2", "model.text.heads=2", "contrastive.queue_size=12", "text.max_tokens=9")
HEADS = (*SIZES, "text.tokenizer=minilm")


def fuseray(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def done(*arguments: str) -> str:
    result = fuseray(*arguments)
    assert result.exception is None, result.exception
    return result.output


def official(folder: Path, layout: str = "pretrain", whole: bool = True) -> str:
    path = folder / f"{layout}.pth"
    torch.save(nested(layout) if whole else tensors(layout, bare=True), path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "a draft was left behind"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_goes_in_and_comes_out_bit_for_bit(layout: str, folder: Path) -> None:
    said = done("import-checkpoint", "albef", official(folder, layout), str(folder / "imported"), *HEADS)
    assert f"layout {layout}" in said
    assert "epochs trained: 5" in said
    done("export", str(folder / "imported"), str(folder / "out.pth"), "--format", "albef")
    found = torch.load(folder / "out.pth", weights_only=True)
    expected = torch.load(folder / f"{layout}.pth", weights_only=True)
    assert list(found) == list(expected)
    assert_same(found, expected)


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    else:
        assert found == expected


def test_the_report_for_scripts_has_all_names(folder: Path) -> None:
    file = official(folder, "vqa", whole=False)
    report = json.loads(done("import-checkpoint", "albef", file, str(folder / "vqa"), *HEADS, "--json"))
    assert report["layout"] == "vqa"
    assert report["optimizer"] is False
    names = torch.load(file, weights_only=True).keys()
    sorted_out = [name for part in ("used", "tied", "aside", "left_over") for name in report["report"][part]]
    assert sorted(sorted_out) == sorted(names)
    assert json.loads((folder / "vqa" / "import.json").read_text())["report"] == report["report"]


def test_flat_leaves_the_rest_out(folder: Path) -> None:
    done("import-checkpoint", "albef", official(folder), str(folder / "imported"), *HEADS)
    done("export", str(folder / "imported"), str(folder / "out.pth"), "--format", "albef", "--flat")
    assert_same(torch.load(folder / "out.pth", weights_only=True), nested("pretrain")["model"])


def test_a_wrong_file_leaves_nothing_behind(folder: Path) -> None:
    (folder / "page.pth").write_text("<html>")
    result = fuseray("import-checkpoint", "albef", str(folder / "page.pth"), str(folder / "out"))
    assert isinstance(result.exception, WorkloadError)
    assert not (folder / "out").exists()


def test_what_exists_is_not_overwritten(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    file = official(folder, whole=False)
    result = fuseray("import-checkpoint", "albef", file, str(folder / "full"), *HEADS)
    assert isinstance(result.exception, ConfigError)
    assert "exists already" in str(result.exception)
    done("import-checkpoint", "albef", file, str(folder / "imported"), *HEADS)
    for arguments in (["--format", "albef"], []):
        result = fuseray("export", str(folder / "imported"), str(folder / "full"), *arguments)
        assert isinstance(result.exception, ConfigError)
    assert [path.name for path in (folder / "full").iterdir()] == ["mine.txt"]


def test_an_import_can_be_stored_elsewhere_than_on_a_local_path(folder: Path) -> None:
    done("import-checkpoint", "albef", official(folder, whole=False), f"file://{folder}/imported", *HEADS)
    assert load_checkpoint(locate(str(folder / "imported"))).state.workload == "albef"


def test_a_damaged_import_is_refused(folder: Path) -> None:
    done("import-checkpoint", "albef", official(folder, whole=False), str(folder / "imported"), *HEADS)
    content = bytearray((folder / "imported" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "imported" / "model.safetensors").write_bytes(content)
    result = fuseray("export", str(folder / "imported"), str(folder / "out.pth"), "--format", "albef")
    assert isinstance(result.exception, CheckpointError)
    assert not (folder / "out.pth").exists()


def test_the_exported_folder_loads_with_the_printed_lines(folder: Path) -> None:
    done("import-checkpoint", "albef", official(folder, whole=False), str(folder / "imported"), *HEADS)
    said = done("export", str(folder / "imported"), str(folder / "model"))
    lines = [line.strip() for line in said.splitlines() if "load_exported" in line]
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)  # noqa: S102 - the lines that the user is told to run
    expected = load_checkpoint(locate(str(folder / "imported"))).model
    for name, tensor in names["model"].student.state_dict().items():
        assert torch.equal(tensor, expected[f"student.{name}"]), name


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["import-checkpoint", "blip", "x", "y"], "no checkpoint format is called 'blip'"),
        (["import-checkpoint", "albef", "x", "y", "heads"], "write it as key.path=value"),
        (["export", "nope", "y"], "no run 'nope'"),
        (["export", "nope", "y", "--flat"], "--flat: belongs to --format albef"),
        (["evaluate", "nope"], "no run 'nope'"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], reason: str) -> None:
    result = fuseray(*arguments)
    assert isinstance(result.exception, FuserayError)
    assert reason in str(result.exception)


@pytest.fixture
def run(folder: Path) -> RunFolder:
    """A run with two checkpoints, as training leaves it."""
    done("import-checkpoint", "albef", official(folder), str(folder / "imported"), *SIZES)
    imported = load_checkpoint(locate(str(folder / "imported")))
    run = RunFolder(locate(str(folder / "runs" / "mine")))
    sections = {"data": {"train": "x"}, "batch": {"micro_batches": 1, "micro_batch_size": 4}, "length": {"steps": 9}}
    recipe = {"name": "mine", "workload": "albef", **sections, **imported.state.config}
    run.recipe.write(json.dumps(recipe).encode())
    run.write(RunFile("mine", "r", "i", "sqlite:///x", "id", 9, "2026-01-01", "FINISHED"))
    for step, epochs in ((4, 0.8), (9, 1.8)):
        state = RunState(step, 42, "r", "i", "id", "albef", imported.state.config, epochs)
        model = {**imported.model, "student.temp": torch.tensor(step / 100)}
        save_checkpoint(run, state, model, imported.optimizer)
    return run


def test_a_run_is_exported_in_the_official_layout(run: RunFolder, folder: Path) -> None:
    storage = ("--storage", str(folder / "runs"))
    done("export", "mine", str(folder / "out.pth"), "--format", "albef", *storage)
    content = torch.load(folder / "out.pth", weights_only=True)
    assert list(content["model"]) == list(nested("pretrain")["model"])
    assert float(content["model"]["temp"]) == pytest.approx(0.09)
    assert content["epoch"] == 1
    expected = nested("pretrain")["optimizer"]["state"]
    for index, entries in content["optimizer"]["state"].items():
        assert torch.equal(entries["exp_avg"], expected[index]["exp_avg"]), index
    done("export", "mine", str(folder / "early.pth"), "--format", "albef", "--step", "4", *storage)
    assert float(torch.load(folder / "early.pth", weights_only=True)["model"]["temp"]) == pytest.approx(0.04)
    missing = fuseray("export", "mine", str(folder / "none.pth"), "--step", "5", *storage)
    assert "no checkpoint of step 5; there are step-00000004, step-00000009" in str(missing.exception)


def test_a_run_of_an_older_version_is_not_exported(run: RunFolder, folder: Path) -> None:
    for place in run.committed_checkpoints():
        rewrite_as_version_two(place)
    refused = fuseray("export", "mine", str(folder / "out.pth"), "--format", "albef", "--storage", str(folder / "runs"))
    assert isinstance(refused.exception, CheckpointError)
    assert "format version 2 is not supported" in str(refused.exception)
    assert not (folder / "out.pth").exists()


def test_an_imported_model_is_evaluated_on_named_samples(folder: Path) -> None:
    file = official(folder, whole=False)
    content = torch.load(file, weights_only=True)
    for name in content:
        if name.endswith("word_embeddings.weight"):
            content[name] = torch.randn(30522, 16)
        elif name.endswith("predictions.bias"):
            content[name] = torch.zeros(30522)
    torch.save({name: tensor for name, tensor in content.items() if ".decoder." not in name}, file)
    done("import-checkpoint", "albef", file, str(folder / "imported"), *HEADS)
    write_shards(str(folder / "data"), 12)
    unnamed = fuseray("evaluate", str(folder / "imported"))
    assert "name some with --held-out" in str(unnamed.exception)
    of_a_run = fuseray("evaluate", str(folder / "imported"), "--step", "3")
    assert "an imported checkpoint is one alone; leave out --step" in str(of_a_run.exception)
    samples = ("--held-out", str(folder / "data" / "train"), "evaluation.rerank=3")
    found = json.loads(done("evaluate", str(folder / "imported"), *samples, "--json"))
    assert 0 <= found["metrics"]["reranked/image_to_text/recall@5"] <= 1
    assert "Re-ranked with ITM" in done("evaluate", str(folder / "imported"), *samples)
