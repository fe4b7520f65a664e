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
from workloads.nn.meta import on_meta

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of weights in timm's repositories on the hub, preferred first."""


def open_timm(name: str, key: str, otherwise: str = "") -> tuple[Weights, Facts]:
    """Return the weights of a model in timm, which are downloaded when they are loaded, and what its name tells.

    Args:
        name: of the model, with or without the tag of its weights.
        key: recipe key that names it, for messages.
        otherwise: what else the user could do, for messages.

    Raises:
        WorkloadError: when timm has no such model, or its file in the hub's cache is none of weights.
    """
    model = _untrained(name, key)
    repository, files = _repository(name)
    path = cached(repository, files) if repository else None
    if path is not None:
        checked_kind(path, key)
    shapes = {tensor: tuple(value.shape) for tensor, value in model.state_dict().items()}
    return Weights(shapes, lambda: _load(name, key, otherwise)), _facts(name, model)


def _untrained(name: str, key: str) -> nn.Module:
    if not timm.is_model(name):
        raise WorkloadError(f"{key}: {name!r} is neither a local file or folder nor a model that timm knows")
    try:
        model: nn.Module = on_meta(lambda: timm.create_model(name, pretrained=False))
    except (RuntimeError, ValueError) as error:
        raise WorkloadError(f"{key}: timm cannot make {name!r} ({first_line(error)}); choose another name") from error
    return model


def _facts(name: str, model: nn.Module) -> Facts:
    pretrained = timm.get_pretrained_cfg(name)
    facts = Facts(source=f"timm's {name}")
    if pretrained is not None:
        facts = replace(facts, mean=tuple(pretrained.mean), std=tuple(pretrained.std))
    if not isinstance(model, VisionTransformer) or not isinstance(model.blocks[0], Block):
        return facts
    block: Any = model.blocks[0]
    heads, epsilon = block.attn.num_heads, block.norm1.eps
    return replace(facts, heads=heads, norm_epsilon=epsilon, activation=_activation(block.mlp.act))


def _activation(module: nn.Module) -> str:
    exact = isinstance(module, nn.GELU) and module.approximate == "none"
    return "gelu" if exact else type(module).__name__


def _repository(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the hub's repository with a model's weights, None when they are elsewhere, and the files to look for."""
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None or not pretrained.hf_hub_id or isinstance(pretrained.custom_load, str):
        return None, ()
    return pretrained.hf_hub_id, (pretrained.hf_hub_filename,) if pretrained.hf_hub_filename else HUB_FILES


def _load(name: str, key: str, otherwise: str) -> Mapping[str, Tensor]:
    repository, files = _repository(name)
    path: Path | None = fetch(repository, files, key, otherwise) if repository else None
    if path is not None:
        checked_kind(path, key)
    place = {} if path is None else {"file": str(path), "custom_load": False}
    try:
        return dict(timm.create_model(name, pretrained=True, pretrained_cfg_overlay=place).state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkloadError(
            f"{key}: timm could not load {name!r} ({first_line(error)}); put its model.safetensors on this machine and "
            f"set {key} to the file{otherwise}"
        ) from error
