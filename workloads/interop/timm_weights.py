"""Weights that timm has under a name: what the name tells without them, and loading them from the hub or its cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from workloads.contract import WorkloadError
from workloads.interop.model_sources import cached, fetch, first_line
from workloads.interop.weight_facts import Facts
from workloads.interop.weight_files import Weights, checked_kind
from workloads.nn.meta import without_values
from workloads.nn.timm_encoder import create_encoder
from workloads.nn.vision import ImageSize

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in timm's repositories on the hub, preferred first."""


def open_timm(name: str, key: str, otherwise: str = "", size: ImageSize | None = None) -> tuple[Weights, Facts]:
    """Return the weights of a model in timm, which are downloaded when they are loaded, and what its name tells.

    Args:
        name: of the model, with or without the tag of its weights.
        key: recipe key that names it, for messages.
        otherwise: what else the user could do, for messages.
        size: of the images that the weights are resized for; None for the model's own.

    Raises:
        WorkloadError: when timm has no such model or no weights of it, or its file in the hub's cache is none of
            weights.
    """
    model = _untrained(name, key, size)
    repository, files = _repository(name)
    path = cached(repository, files) if repository else None
    if path is not None:
        checked_kind(path, key)
    shapes = {tensor: tuple(value.shape) for tensor, value in model.state_dict().items()}
    facts = replace(facts_of(f"timm's {name}", model), **_of_pixels(name))
    return Weights(shapes, lambda: _load(name, key, otherwise, size)), facts


def _untrained(name: str, key: str, size: ImageSize | None) -> nn.Module:
    if not timm.is_model(name):
        raise WorkloadError(f"{key}: {name!r} is neither a local file or folder nor a model that timm knows")
    try:
        model: nn.Module = without_values(lambda: _create(name, size))
    except (RuntimeError, ValueError, WorkloadError) as error:
        raise WorkloadError(f"{key}: timm cannot make {name!r} ({first_line(error)}); choose another name") from error
    if not timm.is_model_pretrained(name):
        raise WorkloadError(f"{key}: timm has no weights of {name}; name a file of them, or set it to null")
    return model


def _create(name: str, size: ImageSize | None, **options: Any) -> nn.Module:
    """Return timm's model with the classifier that its weights have."""
    pretrained = timm.get_pretrained_cfg(name)
    if size is None or pretrained is None:
        model: nn.Module = timm.create_model(name, **options)
        return model
    return create_encoder(name, size, pretrained.num_classes, **options)


def facts_of(source: str, model: nn.Module) -> Facts:
    """Return what a model computes with, as far as tensors do not show it: of ViTs alone.

    Args:
        source: who says so.
        model: of timm.
    """
    if not isinstance(model, VisionTransformer) or not isinstance(model.blocks[0], Block):
        return Facts(source=source)
    block: Any = model.blocks[0]
    heads, epsilon = block.attn.num_heads, block.norm1.eps
    return Facts(source=source, heads=heads, norm_epsilon=epsilon, activation=_activation(block.mlp.act))


def pixel_facts(name: str, source: str) -> Facts:
    """Return the architecture that a name in timm is of, and the statistics of its pixels.

    Args:
        name: of the model.
        source: who says so.
    """
    return Facts(source=source, **_of_pixels(name))


def _of_pixels(name: str) -> dict[str, Any]:
    pretrained = timm.get_pretrained_cfg(name)
    pixels = {} if pretrained is None else {"mean": tuple(pretrained.mean), "std": tuple(pretrained.std)}
    return {"name": name.partition(".")[0], **pixels}


def _activation(module: nn.Module) -> str:
    exact = isinstance(module, nn.GELU) and module.approximate == "none"
    return "gelu" if exact else type(module).__name__


def _repository(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the hub's repository with a model's weights, None when they are elsewhere, and the files to look for."""
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None or not pretrained.hf_hub_id or isinstance(pretrained.custom_load, str):
        return None, ()
    return pretrained.hf_hub_id, (pretrained.hf_hub_filename,) if pretrained.hf_hub_filename else HUB_FILES


def _load(name: str, key: str, otherwise: str, size: ImageSize | None) -> Mapping[str, Tensor]:
    repository, files = _repository(name)
    path: Path | None = fetch(repository, files, key, otherwise) if repository else None
    if path is not None:
        checked_kind(path, key)
    place = {} if path is None else {"file": str(path), "custom_load": False}
    try:
        return dict(_create(name, size, pretrained=True, pretrained_cfg_overlay=place).state_dict())
    except (OSError, ValueError, RuntimeError, WorkloadError) as error:
        raise WorkloadError(
            f"{key}: timm could not load {name!r} ({first_line(error)}); put its model.safetensors on this machine and "
            f"set {key} to the file{otherwise}"
        ) from error
