"""Files and values that cannot be an ALBEF checkpoint are refused with the reason."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from official_albef import HEADS, tensors
from safetensors.torch import save_file

from workloads.albef.config import deep_merge
from workloads.contract import WorkloadError
from workloads.interop.albef_format import FORMAT


def blip() -> dict[str, Any]:
    """The names of a BLIP model: every text layer attends to the image."""
    official = tensors("retrieval", bare=True)
    for name in list(official):
        if ".layer.6.crossattention" in name:
            official |= {name.replace("layer.6", f"layer.{layer}"): official[name] for layer in range(6)}
    return official


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "web page": (lambda path: path.write_bytes(b"<!DOCTYPE html><html>"), "it is a web page"),
    "git-lfs": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "text": (lambda path: path.write_bytes(b"hello"), "no file of weights"),
    "safetensors": (lambda path: save_file({"a": torch.ones(2)}, path), "is no ALBEF checkpoint: .* begin like a"),
    "pickle with code": (lambda path: torch.save({"model": Fraction(1, 2)}, path), r"Python objects \(fractions"),
    "a tensor": (lambda path: torch.save(torch.ones(2), path), "holds a Tensor"),
    "no tensors": (lambda path: torch.save({"model": {}}, path), "it holds no tensors"),
    "CLIP": (lambda path: torch.save({"visual.conv1.weight": torch.ones(2)}, path), "looks like CLIP"),
    "a ViT": (lambda path: torch.save({"blocks.0.norm1.bias": torch.ones(2)}, path), "name it in model.vision_weights"),
    "BLIP": (lambda path: torch.save(blip(), path), "12 of its 12 text layers attend to the image"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_wrong_file_is_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    make, reason = FILES[kind]
    make(tmp_path / "file.pth")
    with pytest.raises(WorkloadError, match=reason):
        FORMAT.read(tmp_path / "file.pth", HEADS)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_file_is_refused(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(tensors("retrieval", bare=True), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(WorkloadError, match="damaged" if legacy else "is cut"):
        FORMAT.read(path, HEADS)


def test_the_old_file_kind_of_torch_is_read(tmp_path: Path) -> None:
    official = tensors("retrieval", bare=True)
    torch.save(official, tmp_path / "file.pth", _use_new_zipfile_serialization=False)
    assert len(FORMAT.read(tmp_path / "file.pth", HEADS).report.used) > 100


@pytest.mark.parametrize("kind", ["wrapped", "safetensors"])
def test_other_forms_of_the_same_tensors_are_read(kind: str, tmp_path: Path) -> None:
    official = tensors("retrieval", bare=True)
    if kind == "wrapped":
        torch.save({f"module.{name}": tensor for name, tensor in official.items()}, tmp_path / "file.pth")
    else:
        save_file({name: tensor.clone().contiguous() for name, tensor in official.items()}, tmp_path / "file.pth")
    checkpoint = FORMAT.read(tmp_path / "file.pth", HEADS)
    torch.save(official, tmp_path / "plain.pth")
    plain = FORMAT.read(tmp_path / "plain.pth", HEADS)
    assert sorted(checkpoint.report.used) == sorted(plain.report.used)
    torch.testing.assert_close(dict(checkpoint.state), dict(plain.state))
    wrapped = ("module. before all names is left out",) if kind == "wrapped" else ()
    assert checkpoint.report.notes == (*plain.report.notes, *wrapped)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    official = tensors("retrieval", bare=True)
    official["itm_head.weight"] = torch.ones(3, 16)
    torch.save(official, tmp_path / "file.pth")
    with pytest.raises(WorkloadError, match=r"itm_head.weight is \[3, 16\] where .* speak of \[2, 16\]"):
        FORMAT.read(tmp_path / "file.pth", HEADS)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model": {"vision": {"width": 32}}}, r"model.vision.width=32: the model in .* has 16"),
        ({"model": {"vision": {"heads": 3}}}, r"add model.vision.heads=NUMBER, of which 16 is a multiple"),
        ({"model": {"image_size": 13}}, "model.image_size must be a multiple of the patch, 4"),
        ({"model": {"text": {"size": 1}}}, "model.text.size: Extra inputs are not permitted"),
        ({"contrastive": {"queue_size": "many"}}, "contrastive.queue_size: Input should be a valid integer"),
    ],
)
def test_wrong_values_are_named(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    torch.save(tensors("retrieval", bare=True), tmp_path / "file.pth")
    with pytest.raises(WorkloadError, match=reason):
        FORMAT.read(tmp_path / "file.pth", deep_merge(HEADS, values))


def test_heads_that_the_width_does_not_tell_must_be_given(tmp_path: Path) -> None:
    torch.save(tensors("retrieval", bare=True), tmp_path / "file.pth")
    with pytest.raises(WorkloadError, match="how many attention heads a width of 16"):
        FORMAT.read(tmp_path / "file.pth", {})
