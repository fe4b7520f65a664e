"""Image encoders start from ViTs of timm, of transformers and of official files, or the weights are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from workloads.albef.model import build_image_encoder
from workloads.albef.model_config import ModelConfig
from workloads.contract import WorkloadError
from workloads.interop.pretrained import load_vision_weights
from workloads.nn.timm_encoder import encode_images


def config(source: Path | str, size: int = 32, **vision: Any) -> ModelConfig:
    sizes = {"patch": 8, "width": 16, "depth": 1, "heads": 2} | vision
    return ModelConfig.model_validate({"image_size": size, "vision": sizes, "vision_weights": str(source)})


def saved(folder: Path, **extra: Tensor) -> tuple[dict[str, Tensor], Path]:
    torch.manual_seed(5)
    state = build_image_encoder(config("x")).state_dict()
    torch.save({"model": {**state, "head.weight": torch.zeros(10, 16), **extra}}, folder / "vit.pth")
    return state, folder / "vit.pth"


def small_vit(**arguments: Any) -> nn.Module:
    """A ViT of timm with something that a plain one does not have."""
    torch.manual_seed(3)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", pretrained=False, **sizes | arguments)
    return model


def test_a_nested_file_is_read_and_its_classifier_left_over(tmp_path: Path) -> None:
    state, path = saved(tmp_path)
    ours = build_image_encoder(config(path))
    report = load_vision_weights(ours, config(path))
    torch.testing.assert_close(ours.state_dict(), state)
    assert (set(report.used), report.missing, report.left_over) == (set(state), (), ("head.weight",))


def test_position_embeddings_follow_the_grid(tmp_path: Path) -> None:
    state, path = saved(tmp_path)
    larger = config(path, size=64)
    ours = build_image_encoder(larger)
    load_vision_weights(ours, larger)
    positions = ours.state_dict()["pos_embed"]
    assert positions.shape == (1, 65, 16)
    torch.testing.assert_close(positions[:, 0], state["pos_embed"][:, 0])
    torch.testing.assert_close(positions[:, 1:].mean(1), state["pos_embed"][:, 1:].mean(1), rtol=0, atol=0.02)


def test_positions_are_resized_without_antialiasing(tmp_path: Path) -> None:
    """Bicubic weights of the half-way point between samples (a = -0.75), by hand, at the centre of a row."""
    state, path = saved(tmp_path)
    smaller = config(path, size=16)
    ours = build_image_encoder(smaller)
    load_vision_weights(ours, smaller)
    weights = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
    rows = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
    grid = state["pos_embed"][0, 1:].view(4, 4, 16)
    taps = torch.zeros(2, 4)
    for out in range(2):
        for tap in range(4):
            taps[out, rows[out, tap]] += weights[tap]
    expected = torch.einsum("ai,bj,ijd->abd", taps, taps, grid)
    found = ours.state_dict()["pos_embed"][0, 1:].view(2, 2, 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrapper", ["", "module.", "module._orig_mod."])
def test_an_official_deit_file_gives_timms_own_outputs(tmp_path: Path, wrapper: str) -> None:
    theirs = small_vit().eval()
    torch.save({"model": {wrapper + name: value for name, value in theirs.state_dict().items()}}, tmp_path / "deit.pth")
    ours = build_image_encoder(config(tmp_path / "deit.pth")).eval()
    report = load_vision_weights(ours, config(tmp_path / "deit.pth"))
    assert report.left_over == ("head.weight", "head.bias")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_features(image), theirs.forward_features(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification", "state_dict"])
def test_a_vit_of_transformers_gives_its_own_outputs(kind: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    settings = transformers.ViTConfig(image_size=32, patch_size=8, **sizes)
    theirs = getattr(transformers, "ViTModel" if kind == "state_dict" else kind)(settings).eval()
    if kind == "state_dict":
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        theirs.save_pretrained(tmp_path)
    values = config(tmp_path, depth=2, norm_epsilon=1e-12)
    ours = build_image_encoder(values).eval()
    report = load_vision_weights(ours, values)
    assert report.missing == ()
    assert all(name.startswith(("pooler.", "classifier.")) for name in report.left_over)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        vit = theirs.vit if kind == "ViTForImageClassification" else theirs
        expected = vit(image).last_hidden_state
        torch.testing.assert_close(encode_images(ours, image).tokens_BNC, expected, rtol=1e-5, atol=1e-5)


OTHER_VITS: dict[str, tuple[dict[str, Any], str]] = {
    "LayerScale": ({"init_values": 1e-5}, "has blocks.0.ls1.gamma, .*: LayerScale; choose a plain ViT"),
    "q/k-norm": ({"qk_norm": True}, r"normalised queries and keys \(q/k-norm\)"),
    "deeper": ({"depth": 3}, "has 3 blocks, where model.vision.depth is 1; set that to 3"),
    "registers": ({"reg_tokens": 4}, "has reg_token, .*: register tokens"),
    "other patches": ({"patch_size": 4}, "set model.vision.patch=4"),
    "wider": ({"embed_dim": 32}, r"shape \[32, 3, 8, 8\], where the model has .*set model.vision.width=32"),
    "mean of tokens": ({"class_token": False, "global_pool": "avg"}, "16 position embeddings"),
    "no qkv bias": ({"qkv_bias": False}, "lacks blocks.0.attn.qkv.bias"),
}


@pytest.mark.parametrize("kind", OTHER_VITS)
def test_another_vit_is_refused_with_what_differs(kind: str, tmp_path: Path) -> None:
    arguments, reason = OTHER_VITS[kind]
    torch.save(small_vit(**arguments).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(WorkloadError, match=rf"^model.vision_weights: \S+vit.pth .*{reason}"):
        load_vision_weights(build_image_encoder(config("x")), config(tmp_path / "vit.pth"))


FACTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "kind": ("config.json", {"model_type": "dinov2"}, "the model is dinov2, where the recipe has vit; choose other"),
    "heads": ("config.json", {"num_attention_heads": 4}, "set model.vision.heads=4"),
    "epsilon": ("config.json", {"layer_norm_eps": 1e-12}, "set model.vision.norm_epsilon=1e-12"),
    "activation": (
        "config.json",
        {"hidden_act": "quick_gelu"},
        "its activation is quick_gelu, .*; choose other weights",
    ),
    "pixels": (
        "preprocessor_config.json",
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
        r"std=\[0.5,",
    ),
    "pixels of timm": (
        "config.json",
        {"pretrained_cfg": {"std": [0.5, 0.5, 0.5]}},
        r"set model.vision.std=\[0.5,0.5,0.5",
    ),
    "heads of timm": ("config.json", {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}, "vision.heads=3"),
    "no JSON": ("config.json", {}, "beside the weights holds no JSON object"),
}


@pytest.mark.parametrize("kind", FACTS)
def test_facts_beside_the_weights_are_compared(kind: str, tmp_path: Path) -> None:
    name, content, reason = FACTS[kind]
    torch.save(small_vit().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / name).write_text(json.dumps(content or [1]))
    with pytest.raises(WorkloadError, match=rf"^model.vision_weights: .*{name} .*{reason}"):
        load_vision_weights(build_image_encoder(config("x")), config(tmp_path))


def test_files_beside_several_models_belong_to_none(tmp_path: Path) -> None:
    torch.save(small_vit().state_dict(), tmp_path / "vit.pth")
    torch.save({}, tmp_path / "other.pth")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    assert load_vision_weights(build_image_encoder(config("x")), config(tmp_path / "vit.pth")).used


OTHER_FILES: dict[str, tuple[str, str]] = {
    "albef": (
        "visual_encoder.blocks.0.norm1.weight",
        "run `fuseray import-checkpoint albef FILE OUT`",
    ),
    "clip": ("vision_model.embeddings.class_embedding", "CLIP or SigLIP of transformers"),
    "dino": ("backbone.blocks.0.norm1.weight", "save the backbone's tensors alone"),
    "deit": ("deit.embeddings.distillation_token", "a distillation token"),
    "resnet": ("layer1.0.conv1.weight", "a ResNet, which is no ViT"),
    "bert": ("bert.embeddings.LayerNorm.weight", "a BERT; name it in model.text_weights"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_projects_are_recognised(kind: str, tmp_path: Path) -> None:
    name, reason = OTHER_FILES[kind]
    torch.save({name: torch.zeros(2)}, tmp_path / "file.pth")
    with pytest.raises(WorkloadError, match=reason):
        load_vision_weights(build_image_encoder(config("x")), config(tmp_path / "file.pth"))


def test_dinos_student_and_teacher_are_told(tmp_path: Path) -> None:
    torch.save({"student": {"a": torch.zeros(1)}, "teacher": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "dino.pth")
    with pytest.raises(WorkloadError, match=r"entries student, teacher, as DINO saves them; .*\['teacher'\], NEW"):
        load_vision_weights(build_image_encoder(config("x")), config(tmp_path / "dino.pth"))


def test_values_that_are_not_finite_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    state, path = saved(tmp_path)
    state["norm.bias"][3] = torch.nan
    torch.save(state, path)
    ours = build_image_encoder(config(path))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(WorkloadError, match=r"vit.pth holds not-a-number or infinite values in norm.bias"):
        load_vision_weights(ours, config(path))
    torch.testing.assert_close(ours.state_dict(), before)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(WorkloadError, match="neither a local file or folder nor a model that timm knows"):
        load_vision_weights(build_image_encoder(config("x")), config("vit_of_nobody"))
