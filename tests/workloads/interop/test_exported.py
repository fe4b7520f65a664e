from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from workloads.albef.config import AlbefConfig
from workloads.albef.model import AlbefInference
from workloads.albef.workload import AlbefWorkload
from workloads.contract import KeyedRandom, WorkloadError
from workloads.interop import load_exported
from workloads.interop.export import read_exported_config
from workloads.transforms.text import load_tokenizer

SIZES = {
    "image_size": 32,
    "vision": {"patch": 16, "width": 16, "depth": 1, "heads": 2},
    "text": {"width": 16, "layers": 1, "fusion_layers": 1, "heads": 2, "positions": 16},
    "embed_dim": 8,
    "vision_weights": None,
    "text_weights": None,
}


@pytest.fixture(scope="module")
def workload() -> AlbefWorkload:
    config = AlbefConfig.model_validate({"model": SIZES, "text": {"tokenizer": "minilm", "max_tokens": 9}})
    built = AlbefWorkload(config)
    built.build(torch.device("cpu"), KeyedRandom((0,)))
    return built


@pytest.fixture
def folder(workload: AlbefWorkload, tmp_path: Path) -> Path:
    workload.export(tmp_path / "model")
    return tmp_path / "model"


def test_the_loaded_model_says_the_same(workload: AlbefWorkload, folder: Path) -> None:
    image = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    ids, length = torch.tensor([[101, 2000, 3000], [101, 2500, 0]]), torch.tensor([3, 2])
    loaded = load_exported(folder)
    with AlbefInference.eval_mode(workload.model.student, workload.config.model) as ours:
        for model in (ours, loaded):
            assert not model.student.training
        expected, actual = (m.match_scores(m.encode_texts(ids, length), m.encode_images(image)) for m in (ours, loaded))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_the_folder_needs_nothing_else(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    config = read_exported_config(folder)
    tokens = load_tokenizer(config.text).encode("a red square").tokens
    assert tokens == Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a red square").tokens
    assert "red" in tokens
    assert config.text.max_tokens == 9


@pytest.mark.parametrize(
    "values",
    [
        {"vision": {"name": "test_efficientnet"}, "image_size": [32, 64], "lock": {"vision": "all", "text": "all"}},
        {"vision": {"name": "test_vit"}, "lock": {"vision": 2}},
        {"image_size": [32, 48], "lock": {"vision": 1, "text": 1}},
    ],
)
def test_named_and_locked_encoders_return(values: dict[str, Any], tmp_path: Path) -> None:
    settings = {"model": {**SIZES, **values}, "text": {"tokenizer": "minilm", "max_tokens": 9}}
    workload = AlbefWorkload(AlbefConfig.model_validate(settings))
    model = workload.build(torch.device("cpu"), KeyedRandom((0,)))
    for buffer in model.student.visual_encoder.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    workload.export(tmp_path / "model")
    loaded = load_exported(tmp_path / "model")
    assert loaded.config == workload.config.model
    image = torch.randint(256, (2, 3, *workload.config.model.image_hw), dtype=torch.uint8)
    with AlbefInference.eval_mode(model.student, workload.config.model) as ours:
        expected, actual = (each.encode_images(image) for each in (ours, loaded))
    torch.testing.assert_close(actual.tokens_BND, expected.tokens_BND, rtol=0, atol=0)
    torch.testing.assert_close(actual.embedding_BE, expected.embedding_BE, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{}")
    with pytest.raises(WorkloadError, match=name):
        load_exported(folder)
    (folder / name).unlink()
    with pytest.raises(WorkloadError, match=name):
        load_exported(folder)


def test_nothing_is_exported_before_it_is_built(tmp_path: Path) -> None:
    unbuilt = AlbefWorkload(AlbefConfig.model_validate({"model": SIZES}))
    with pytest.raises(WorkloadError, match="not built yet"):
        unbuilt.export(tmp_path)
