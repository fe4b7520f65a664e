"""Files of weights: what a file is, by its first bytes, and its tensors, read without running code it may hold.

A file is what its bytes say, whatever its name ends in. Read are safetensors files, sharded weights by their index, and
files of torch.save, of all versions; all others are refused with what they are and what to do. Imports torch only to
read tensors.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from workloads.contract import WorkloadError
from workloads.interop.model_sources import INDEX_SUFFIX, first_in, first_line

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file.

    Args:
        name: what it is.
        fix: what to do about one that cannot be read as weights; empty for one that can.
    """

    name: str
    fix: str = ""


SAFETENSORS = FileKind("a safetensors file")
TORCH = FileKind("a file of torch.save")
OLD_TORCH = FileKind("a file of torch.save before version 1.6")
INDEX = FileKind("the index of sharded weights")

EMPTY = FileKind("empty", "download or copy it again")
GIT_LFS = FileKind("a pointer of git-lfs, not the file itself", "fetch the file with `git lfs pull`")
WEB_PAGE = FileKind("a web page, probably of a failed download", "download the file itself")
NUMPY = FileKind(
    "a NumPy archive (.npz)",
    "name the model's safetensors or torch file; timm has most of the ViTs that were published as .npz",
)
HDF5 = FileKind("an HDF5 file, as TensorFlow and Keras write them", "name the model's safetensors or torch file")
GGUF = FileKind("a GGUF file, whose tensors are quantised", "name the model's safetensors or torch file")
ZIP = FileKind("a zip archive that torch.save did not write", "unpack it and name the weights in it")
GZIP = FileKind("a gzip archive", "unpack it and name the weights in it")
TAR = FileKind("a tar archive", "unpack it and name the weights in it")
PICKLE = FileKind(
    "a Python pickle that torch.save did not write", "it could run code; name the model's safetensors or torch file"
)
JSON = FileKind("a JSON file without weights", "name the weights, or the folder that holds them")
UNKNOWN = FileKind(
    "no file of weights, by its first bytes", "name a safetensors file, its index, or a file of torch.save"
)

HEAD_BYTES = 512
PREFIXES = {
    b"version https://git-lfs": GIT_LFS,
    b"\x89HDF": HDF5,
    b"GGUF": GGUF,
    b"\x1f\x8b": GZIP,
}
OLD_TORCH_MAGIC = b"l\xfc\x9cF\xf9 j\xa8P\x19"
"""The number 0x1950a86a20f9469cfc6c as it is pickled; torch.save began its files with it."""


def identify(path: Path, key: str = "") -> FileKind:
    """Return what a file is, by its first bytes.

    Raises:
        WorkloadError: when it cannot be opened.
    """
    head = _head(path, key)
    for prefix, kind in PREFIXES.items():
        if head.startswith(prefix):
            return kind
    if not head:
        return EMPTY
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path, head)
    if OLD_TORCH_MAGIC in head[:32]:
        return OLD_TORCH
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size * 2 + 2**20:
        return SAFETENSORS
    if head[257:262] == b"ustar":
        return TAR
    return _kind_of_text(path, head)


def _head(path: Path, key: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise WorkloadError(f"{_place(path, key)} cannot be opened: {error.strerror}; check the path") from error


def _kind_of_zip(path: Path, head: bytes) -> FileKind:
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first.endswith(b".npy"):
        return NUMPY
    if first.endswith(b"/data.pkl"):
        return TORCH
    try:
        with zipfile.ZipFile(path) as archive:
            return TORCH if any(name.endswith("/data.pkl") for name in archive.namelist()) else ZIP
    except (OSError, zipfile.BadZipFile):
        return ZIP


def _kind_of_text(path: Path, head: bytes) -> FileKind:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        return WEB_PAGE
    if text.startswith(b"{"):
        return INDEX if isinstance(_json(path).get("weight_map"), dict) else JSON
    return PICKLE if head.startswith(b"\x80") else UNKNOWN


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of a model, by the names that they have in its file.

    Args:
        shapes: of all tensors.
        load: reads them.
    """

    shapes: Mapping[str, Shape]
    load: Callable[[], Mapping[str, Tensor]]


WEIGHT_FILES = tuple(name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", INDEX_SUFFIX))
"""Names of weights in a model's folder, preferred first."""

SHARD = re.compile(r"(?P<model>.+)-\d{5}-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
"""Names of shards."""


def find_in_folder(folder: Path, key: str) -> Path:
    """Return the weights in a model's folder.

    Raises:
        WorkloadError: when none of `WEIGHT_FILES` is there.
    """
    path = first_in(folder, WEIGHT_FILES)
    if path is None:
        there = ", ".join(sorted(item.name for item in folder.iterdir())[:5]) or "nothing"
        raise WorkloadError(
            f"{_place(folder, key)} is a folder with none of {', '.join(WEIGHT_FILES)}, but {there}; put one of them "
            f"there, or name the file itself"
        )
    return path


def open_weights(path: Path, key: str = "") -> Weights:
    """Return the weights in a file, in shards, or in a folder of `WEIGHT_FILES`.

    Args:
        path: the file, the shards' index, or the folder.
        key: recipe key that names it, for messages.

    Raises:
        WorkloadError: when they are damaged or of another kind; the message says of which, and what to do.
    """
    if path.is_dir():
        path = find_in_folder(path, key)
    shard = SHARD.fullmatch(path.name)
    if shard and int(shard["count"]) > 1:
        index = shard["model"] + shard["suffix"] + INDEX_SUFFIX
        raise WorkloadError(f"{_place(path, key)} is one of {int(shard['count'])} shards; name {index} beside it")
    return _open(path, key)


def _open(path: Path, key: str) -> Weights:
    kind = checked_kind(path, key)
    if kind is INDEX:
        return _open_shards(path, key)
    if kind is SAFETENSORS:
        return Weights(_safetensors_shapes(path, key), lambda: _load_safetensors(path, key))
    tensors = state_dict(load_torch_file(path, key), path, key)
    return Weights({name: tuple(tensor.shape) for name, tensor in tensors.items()}, lambda: tensors)


def checked_kind(path: Path, key: str = "") -> FileKind:
    """Return what a file of weights is.

    Raises:
        WorkloadError: when it cannot be read as weights.
    """
    kind = identify(path, key)
    if kind.fix:
        raise WorkloadError(f"{_place(path, key)} cannot be read: it is {kind.name}; {kind.fix}")
    return kind


def _place(path: Path, key: str) -> str:
    return f"{key}: {path}" if key else str(path)


def _open_shards(index: Path, key: str) -> Weights:
    weight_map: dict[str, str] = _json(index)["weight_map"]
    names = sorted({str(name) for name in weight_map.values()})
    absent = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if absent:
        raise WorkloadError(f"{_place(index, key)} lists shards that are not beside it: {', '.join(absent)}; add them")
    shards = [_open(index.parent / name, key) for name in names]
    shapes = {name: shape for shard in shards for name, shape in shard.shapes.items()}
    lost = [name for name in weight_map if name not in shapes]
    if lost:
        raise WorkloadError(f"{_place(index, key)} lists {lost[0]}, which no shard holds; download the shards again")
    return Weights(shapes, lambda: {name: tensor for shard in shards for name, tensor in shard.load().items()})


def _safetensors_shapes(path: Path, key: str) -> dict[str, Shape]:
    """Return the shapes from a file's header, once it is sure that the file is whole."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if 8 + length > size:
                raise _cut(path, key)
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        ends = [entry["data_offsets"][1] for entry in header.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, key, error) from error
    if 8 + length + max(ends, default=0) > size:
        raise _cut(path, key)
    return shapes


def _damaged(path: Path, key: str, error: Exception) -> WorkloadError:
    return WorkloadError(f"{_place(path, key)} is damaged: {first_line(error)}; download or copy it again")


def _cut(path: Path, key: str) -> WorkloadError:
    return WorkloadError(f"{_place(path, key)} is cut: its end is missing; download or copy it again")


def _load_safetensors(path: Path, key: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise _damaged(path, key, error) from error


def read_content(path: Path, key: str = "") -> Any:
    """Return what torch.save wrote into a file, or the tensors by name of weights of another kind.

    Raises:
        WorkloadError: as `open_weights` and `load_torch_file`.
    """
    if path.is_file() and checked_kind(path, key) in (TORCH, OLD_TORCH):
        return load_torch_file(path, key)
    return open_weights(path, key).load()


def load_torch_file(path: Path, key: str = "") -> Any:
    """Return the content of a torch file: tensors (memory-mapped where the file kind allows), numbers, text.

    Raises:
        WorkloadError: when it is not a torch file, is cut, or holds other objects; the message says which.
    """
    import torch

    place, kind = _place(path, key), checked_kind(path, key)
    if kind not in (TORCH, OLD_TORCH):
        raise WorkloadError(f"{place} is {kind.name}, not one of torch.save; name that")
    if kind is TORCH and not zipfile.is_zipfile(path):
        raise _cut(path, key)
    try:
        if path.suffix == ".safetensors":  # torch.load goes by the name, unless it is handed a stream
            return torch.load(io.BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind is TORCH)
    except UnpicklingError as error:
        raise WorkloadError(f"{place} is refused: {_unsafe_content(path, kind)}") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WorkloadError(f"{place} cannot be read and may be damaged: {first_line(error)}") from error


def _unsafe_content(path: Path, kind: FileKind) -> str:
    import torch

    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if kind is TORCH else []
    named = f" ({', '.join(sorted(names)[:3])})" if names else ""
    return (
        f"it holds Python objects{named}, which could run code, or is damaged. Save its tensors alone, with "
        "torch.save(torch.load(FILE)['model'], NEW), where you trust it."
    )


NESTED = ("model", "state_dict")
"""Entries of a torch file that may hold the model's tensors."""


def state_dict(content: Any, path: Path, key: str = "") -> dict[str, Tensor]:
    """Return the named tensors in the content of a torch file: the content itself, or one of its `NESTED` entries.

    Raises:
        WorkloadError: when there are none; the message names the entries that there are.
    """
    from torch import Tensor

    place = _place(path, key)
    if not isinstance(content, Mapping):
        raise WorkloadError(f"{place} holds a {type(content).__name__}, not the named tensors of a model")
    for entry in NESTED:
        if isinstance(content.get(entry), Mapping):
            content = content[entry]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    models = [str(entry) for entry, value in content.items() if isinstance(value, Mapping)]
    if not tensors and models:
        of_dino = {"student", "teacher"} <= set(models)
        raise WorkloadError(
            f"{place} holds no tensors itself, but the entries {', '.join(models[:5])}"
            f"{', as DINO saves them' if of_dino else ''}; save the one that you want alone, with "
            f"torch.save(torch.load(FILE)[{('teacher' if of_dino else models[0])!r}], NEW)"
        )
    return tensors
