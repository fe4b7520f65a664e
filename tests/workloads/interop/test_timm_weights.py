"""Names in timm: what they tell is compared before anything is downloaded; the hub's cache is enough to load them."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from workloads.albef.config import AlbefConfig
from workloads.albef.model import build_image_encoder
from workloads.contract import WorkloadError
from workloads.interop.pretrained import check_initial_weights, load_vision_weights

NAME = "vit_tiny_patch16_224.augreg_in21k"
HALF = [0.5, 0.5, 0.5]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of a hub that cannot be reached."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def config(name: str, **vision: Any) -> AlbefConfig:
    sizes = {"patch": 16, "width": 192, "depth": 12, "heads": 3, "norm_epsilon": 1e-6}
    model = {
        "image_size": 224,
        "vision": sizes | {"mean": HALF, "std": HALF} | vision,
        "vision_weights": name,
        "text_weights": None,
    }
    return AlbefConfig.model_validate({"model": model})


def messages(settings: AlbefConfig) -> list[str]:
    return [f"{problem.key}: {problem.message}" for problem in check_initial_weights(settings)]


def put_into_cache(cache: Path, file: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    state: dict[str, torch.Tensor] = timm.create_model(NAME, pretrained=False).state_dict()
    repository = cache / f"models--timm--{NAME}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / file) if file.endswith(".safetensors") else torch.save(state, snapshot / file)
    return state


def test_a_name_that_fits_is_no_problem() -> None:
    assert messages(config(NAME)) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (config(NAME, heads=6), r"timm's vit_tiny\S+ says its attention heads are 3.*set model.vision.heads=3"),
        (config(NAME, norm_epsilon=1e-12), "LayerNorms is 1e-06.*set model.vision.norm_epsilon=1e-06"),
        (config(NAME, std=[0.27, 0.26, 0.28]), r"set model.vision.std=\[0.5,0.5,0.5\]"),
        (config("vit_small_patch14_dinov2.lvd142m"), r"has blocks.0.ls1.gamma, .*: LayerScale"),
        (config("resnet18"), "a ResNet, which is no ViT"),
        (config("vit_tiny_patch16_224.no_such_tag"), "timm cannot make .*choose another name"),
    ],
)
def test_what_a_name_tells_is_compared(settings: AlbefConfig, reason: str) -> None:
    (message,) = messages(settings)
    assert message.startswith("model.vision_weights: ")
    assert re.search(reason, message), message


def test_the_papers_start_from_deit_on_pixels_normalised_as_clip_does_is_noted() -> None:
    from workloads.interop.pretrained import find_vision_weights, match_vision
    from workloads.nn.meta import on_meta

    paper = AlbefConfig().model
    matched = match_vision(find_vision_weights(paper), on_meta(lambda: build_image_encoder(paper)), paper)
    assert len(matched.used) == 150
    assert matched.left_over == ("head.weight", "head.bias")
    assert matched.notes[0].startswith("its pixels had the mean [0.485,0.456,0.406]")


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_one_file_in_the_cache_is_enough(file: str, cache: Path) -> None:
    state = put_into_cache(cache, file)
    ours = build_image_encoder(config(NAME).model)
    report = load_vision_weights(ours, config(NAME).model)
    assert len(report.used) == 150
    torch.testing.assert_close(ours.state_dict(), {name: state[name] for name in report.used})


def test_an_unreachable_hub_says_what_to_put_where() -> None:
    with pytest.raises(WorkloadError, match=r"(?s)Put model.safetensors or .*set model.vision_weights to the folder"):
        load_vision_weights(build_image_encoder(config(NAME).model), config(NAME).model)
