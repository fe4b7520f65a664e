"""Image encoders from timm's pretrained models or from local files."""

from __future__ import annotations

import timm
from torch import Tensor, nn

from workloads.contract import WorkloadError
from workloads.interop.positions import resize_positions
from workloads.interop.torch_file import first_line
from workloads.interop.weights import WeightReport, fit, local_path, read_tensors

KEY = "model.vision_weights"


def load_vision_weights(encoder: nn.Module, source: str, grid: int) -> WeightReport:
    """Start the image encoder from a ViT; position embeddings are resized bicubically to the model's grid.

    Args:
        encoder: what to set.
        source: a local file, or a name that timm has pretrained weights for.
        grid: patches per side of the model.

    Raises:
        WorkloadError: when the weights cannot be found or are of another architecture.
    """
    path = local_path(source, KEY)
    tensors = read_tensors(path) if path else _from_timm(source)
    if "pos_embed" in tensors:
        tensors["pos_embed"] = _resized(tensors["pos_embed"], grid, source)
    report = fit(encoder, tensors, source, KEY)
    if report.missing:
        raise WorkloadError(f"{KEY}: {source} lacks {', '.join(report.missing[:3])}; choose a plain ViT of this depth")
    return report


def _resized(positions_1ND: Tensor, grid: int, source: str) -> Tensor:
    try:
        return resize_positions(positions_1ND, grid)
    except ValueError as error:
        raise WorkloadError(f"{KEY}: {source} is no plain ViT: {error}") from error


def _from_timm(name: str) -> dict[str, Tensor]:
    if not timm.is_model(name):
        raise WorkloadError(f"{KEY}: {name!r} is neither a local file nor a model that timm knows")
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkloadError(
            f"{KEY}: timm could not download {name!r} ({first_line(error)}). Put its model.safetensors on this machine "
            f"and set {KEY} to the file, or set it to null to start at random."
        ) from error
