"""A file of weights is what its first bytes say, whatever its name; what cannot be read is told with the fix."""

import gzip
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from workloads.contract import WorkloadError
from workloads.interop.weight_files import open_weights

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}


def shards(path: Path, kind: str) -> None:
    for number, (name, tensor) in enumerate(TENSORS.items(), 1):
        shard = path.parent / f"model-{number:05d}-of-00002.{kind}"
        save_file({name: tensor}, shard) if kind == "safetensors" else torch.save({name: tensor}, shard)
    weight_map = {name: f"model-{number:05d}-of-00002.{kind}" for number, name in enumerate(TENSORS, 1)}
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


READ: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda path: save_file(TENSORS, path),
    "torch": lambda path: torch.save(TENSORS, path),
    "torch, old": lambda path: torch.save(TENSORS, path, _use_new_zipfile_serialization=False),
    "torch, nested": lambda path: torch.save({"state_dict": TENSORS, "epoch": 3}, path),
    "shards": lambda path: shards(path, "safetensors"),
    "shards of torch": lambda path: shards(path, "bin"),
}


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
@pytest.mark.parametrize("kind", READ)
def test_weights_are_read_under_any_name(kind: str, name: str, tmp_path: Path) -> None:
    READ[kind](tmp_path / name)
    weights = open_weights(tmp_path / name)
    assert weights.shapes == {"a.weight": (2, 3), "b": (4,)}
    torch.testing.assert_close(dict(weights.load()), TENSORS)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.safetensors", b"x")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "model.safetensors")


def cut(path: Path, write: Callable[[Path], object], left: int) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:left])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot be opened: No such file or directory; check the path"),
    "empty": (lambda path: path.write_bytes(b""), "it is empty; download or copy it again"),
    "git-lfs": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "`git lfs pull`"),
    "web page": (lambda path: path.write_bytes(b"\n<!DOCTYPE html><html>"), "it is a web page"),
    "an answer in XML": (lambda path: path.write_bytes(b"<?xml version='1.0'?><Error>"), "it is a web page"),
    "npz": (lambda path: np.savez(path.open("wb"), weight=np.ones(3)), r"NumPy archive \(.npz\); name the model's"),
    "zip": (zipped, "a zip archive that torch.save did not write; unpack it"),
    "tar": (tarred, "a tar archive; unpack it"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "a gzip archive; unpack it"),
    "hdf5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "a Python pickle .* could run code"),
    "json": (lambda path: path.write_text('{"model_type": "vit"}'), "a JSON file without weights"),
    "text": (lambda path: path.write_text("hello, this is text"), "no file of weights, by its first bytes"),
    "cut safetensors": (lambda path: cut(path, READ["safetensors"], -5), "is cut: its end is missing"),
    "cut header": (lambda path: cut(path, READ["safetensors"], 40), "is cut: its end is missing"),
    "damaged header": (lambda path: path.write_bytes(struct.pack("<Q", 9) + b'{"a": 1 }'), "is damaged"),
    "cut torch": (lambda path: cut(path, READ["torch"], 600), "is cut: its end is missing"),
    "cut old torch": (lambda path: cut(path, READ["torch, old"], 300), "damaged"),
    "a pickle by another name": (
        lambda path: torch.save({"a": Fraction(1, 2)}, path),
        r"is refused: it holds Python objects \(fractions",
    ),
    "a list": (lambda path: torch.save([torch.ones(2)], path), "holds a list, not the named tensors of a model"),
    "entries": (
        lambda path: torch.save({"generator": TENSORS}, path),
        r"the entries generator; .*\['generator'\], NEW",
    ),
    "a folder": (lambda path: path.mkdir(), "is a folder with none of model.safetensors, .* put one of them there"),
    "absent shards": (
        lambda path: path.write_text('{"weight_map": {"a": "a.safetensors"}}'),
        "lists shards that are not beside it: a.safetensors; add them",
    ),
    "a shard outside": (
        lambda path: path.write_text('{"weight_map": {"a": "../a.safetensors"}}'),
        "lists shards that are not beside it: ../a.safetensors",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_weights_is_told_with_key_and_fix(kind: str, tmp_path: Path) -> None:
    write, reason = REFUSED[kind]
    write(tmp_path / "weights.bin")
    with pytest.raises(WorkloadError, match=reason) as error:
        open_weights(tmp_path / "weights.bin", "model.vision_weights")
    assert str(error.value).startswith("model.vision_weights: ")


def test_a_shard_alone_names_its_index(tmp_path: Path) -> None:
    shards(tmp_path / "model.safetensors.index.json", "safetensors")
    with pytest.raises(WorkloadError, match=r"is one of 2 shards; name model.safetensors.index.json beside it"):
        open_weights(tmp_path / "model-00001-of-00002.safetensors")


def test_the_header_of_safetensors_is_read_without_torch(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "x")
    script = (
        "import sys; from pathlib import Path; from workloads.interop.weight_files import open_weights\n"
        f"assert len(open_weights(Path({str(tmp_path / 'x')!r})).shapes) == 2; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
