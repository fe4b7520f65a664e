"""Weight files of other projects: reading them without unpickling code, and fitting their tensors to a module."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from workloads.contract import WorkloadError
from workloads.interop.torch_file import load_torch_file

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WeightReport:
    """What became of a file's tensors, by name.

    Args:
        source: where they came from.
        used: parameters that were set.
        missing: parameters that the source does not have; they keep their random start.
        left_over: tensors of the source that the module has no place for.
    """

    source: str
    used: tuple[str, ...]
    missing: tuple[str, ...]
    left_over: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.source}: {len(self.used)} tensors used, {len(self.missing)} parameters start at random"
            f"{_some(self.missing)}, {len(self.left_over)} tensors left over{_some(self.left_over)}"
        )


def local_path(source: str, key: str) -> Path | None:
    """Return the file or folder that a source names, or None when it is a name to look up elsewhere.

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
    """Return the tensors of a safetensors file, or of a torch file that holds nothing but tensors.

    A state_dict inside the file under `model` or `state_dict` is found.

    Raises:
        WorkloadError: when the file cannot be read that way.
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
        module: what to set.
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
