from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from workloads.contract import WorkloadError
from workloads.interop.pretrained import load_vision_weights
from workloads.nn.vision import build_vision_transformer


def encoder(size: int = 32, depth: int = 1) -> nn.Module:
    return build_vision_transformer(image_size=size, patch=8, width=16, depth=depth, heads=2)


def saved(folder: Path, **extra: Tensor) -> tuple[dict[str, Tensor], str]:
    torch.manual_seed(5)
    state = encoder().state_dict()
    torch.save({"model": {**state, "head.weight": torch.zeros(10, 16), **extra}}, folder / "vit.pth")
    return state, str(folder / "vit.pth")


def test_a_nested_file_is_read_and_its_classifier_left_over(tmp_path: Path) -> None:
    state, path = saved(tmp_path)
    ours = encoder()
    report = load_vision_weights(ours, path, grid=4)
    torch.testing.assert_close(ours.state_dict(), state)
    assert report.left_over == ("head.weight",)


def test_position_embeddings_follow_the_grid(tmp_path: Path) -> None:
    state, path = saved(tmp_path)
    larger = encoder(size=64)
    load_vision_weights(larger, path, grid=8)
    positions = larger.state_dict()["pos_embed"]
    assert positions.shape == (1, 65, 16)
    torch.testing.assert_close(positions[:, 0], state["pos_embed"][:, 0])
    torch.testing.assert_close(positions[:, 1:].mean(1), state["pos_embed"][:, 1:].mean(1), rtol=0, atol=0.02)


def test_positions_are_resized_without_antialiasing(tmp_path: Path) -> None:
    """Bicubic weights of the half-way point between samples (a = -0.75), by hand, at the centre of a row."""
    state, path = saved(tmp_path)
    smaller = encoder(size=16)
    load_vision_weights(smaller, path, grid=2)
    weights = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
    rows = torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]])
    grid = state["pos_embed"][0, 1:].view(4, 4, 16)
    taps = torch.zeros(2, 4)
    for out in range(2):
        for tap in range(4):
            taps[out, rows[out, tap]] += weights[tap]
    expected = torch.einsum("ai,bj,ijd->abd", taps, taps, grid)
    found = smaller.state_dict()["pos_embed"][0, 1:].view(2, 2, 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_an_official_deit_file_gives_timms_own_outputs(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(4)
    theirs = timm.create_model("deit_tiny_patch16_224", pretrained=False, num_classes=7).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "deit_tiny_patch16_224.pth")
    ours = build_vision_transformer(image_size=224, patch=16, width=192, depth=12, heads=3).eval()
    report = load_vision_weights(ours, str(tmp_path / "deit_tiny_patch16_224.pth"), grid=14)
    assert report.left_over == ("head.weight", "head.bias")
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs.forward_features(image), rtol=1e-5, atol=1e-5)


def test_a_distilled_deit_is_refused(tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False)
    torch.save({"model": theirs.state_dict()}, tmp_path / "distilled.pth")
    with pytest.raises(WorkloadError, match="is no plain ViT: 198 tokens"):
        load_vision_weights(encoder(), str(tmp_path / "distilled.pth"), grid=4)


def test_a_shallower_file_is_refused(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    with pytest.raises(WorkloadError, match=r"model.vision_weights: .* lacks blocks.1.*choose a plain ViT"):
        load_vision_weights(encoder(depth=2), path, grid=4)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(WorkloadError, match="neither a local file nor a model that timm knows"):
        load_vision_weights(encoder(), "vit_of_nobody", grid=4)


def test_an_unreachable_hub_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WorkloadError, match=r"(?s)could not download.*set model.vision_weights to the file"):
        load_vision_weights(encoder(), "deit_tiny_patch16_224.fb_in1k", grid=4)
