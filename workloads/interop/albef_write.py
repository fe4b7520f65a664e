"""ALBEF models out, in the layout of the official checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workloads.contract import ForeignCheckpoint, WorkloadError
from workloads.interop.albef_layout import Layout, canonical_names, is_spared, trained_names
from workloads.interop.albef_optimizer import write_moments
from workloads.interop.albef_read import EPOCH, MODEL, OPTIMIZER
from workloads.interop.albef_state import empty_state
from workloads.pretrain.albef_config import AlbefConfig

DERIVED = ("position_ids", "decoder.weight", "decoder.bias")
"""Ends of names in the pre-training layout that the model does not have."""


def write_albef(checkpoint: ForeignCheckpoint, file: Path, flat: bool) -> None:
    """Write what torch.load reads with weights_only=True and the official code loads.

    An imported checkpoint gets the layout and the names it came with; any other that of pre-training, nested.

    Raises:
        WorkloadError: when the checkpoint is of another workload.
    """
    if checkpoint.workload != "albef" or not isinstance(checkpoint.config, AlbefConfig):
        raise WorkloadError(f"only models of the workload albef have this format, not those of {checkpoint.workload!r}")
    metadata = checkpoint.metadata or _native(checkpoint, checkpoint.config)
    layout = Layout(metadata["layout"], metadata["text_layers"])
    model = _official_tensors(checkpoint, layout, metadata["names"])
    if flat or not metadata["nested"]:
        torch.save(model, file)
        return
    content = dict(metadata["beside"]) | {MODEL: model}
    if checkpoint.moments:
        content[OPTIMIZER] = _optimizer(checkpoint, layout, metadata, model)
    torch.save(content, file)


def _official_tensors(checkpoint: ForeignCheckpoint, layout: Layout, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors by official names; tied ones share their memory, as in the official files."""
    stored: dict[str, Tensor] = {}
    for name in names:
        our = layout.our_name(name)
        if name in checkpoint.aside:
            stored[name] = checkpoint.aside[name]
        elif our is not None and our in checkpoint.state:
            stored[name] = checkpoint.state[our]
    return {name: stored[name] if name in stored else _derived(layout, name, stored) for name in names}


def _derived(layout: Layout, name: str, stored: Mapping[str, Tensor]) -> Tensor:
    tensor = layout.derived(name, stored)
    if tensor is None:
        raise WorkloadError(f"the checkpoint lacks what {name} is made of; import the official file again")
    return tensor


def _native(checkpoint: ForeignCheckpoint, config: AlbefConfig) -> dict[str, Any]:
    """Return the metadata of a model that was never in the official layout."""
    names = canonical_names(list(empty_state(config)))
    beside: dict[str, Any] = {MODEL: None, OPTIMIZER: None, "lr_scheduler": {}}
    beside |= {"config": config.model_dump(mode="json"), EPOCH: round(checkpoint.epochs or 0) - 1}
    return {
        "layout": "pretrain",
        "text_layers": config.model.text.layers,
        "names": names,
        "tied": [name for name in names if name.endswith(DERIVED)],
        "numbers": [],
        "nested": True,
        "beside": beside if checkpoint.moments else {key: beside[key] for key in beside if key != OPTIMIZER},
    }


def _optimizer(
    checkpoint: ForeignCheckpoint, layout: Layout, metadata: Mapping[str, Any], model: Mapping[str, Tensor]
) -> dict[str, Any]:
    shapes = {name: tensor.shape for name, tensor in model.items()}
    trained = trained_names(metadata["names"], shapes, metadata["tied"])
    state = write_moments(checkpoint.moments, checkpoint.aside, trained, layout, metadata["numbers"])
    came_with = metadata["beside"].get(OPTIMIZER)
    if came_with:
        groups = [_with_tuples(group) for group in came_with["param_groups"]]
    else:
        groups = _groups(checkpoint.hyperparameters, [is_spared(name, shapes[name]) for name in trained])
    return {"state": state, "param_groups": groups}


def _groups(options: Mapping[str, Any], spared: Sequence[bool]) -> list[dict[str, Any]]:
    """Return AdamW's two groups, without and with weight decay."""
    shared = {
        "lr": options["learning_rate"],
        "betas": tuple(options["betas"]),
        "eps": options["epsilon"],
        "amsgrad": False,
    }
    count = sum(spared)
    return [
        {**shared, "weight_decay": 0.0, "params": list(range(count))},
        {**shared, "weight_decay": options["weight_decay"], "params": list(range(count, len(spared)))},
    ]


def _with_tuples(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if key == "betas" else value for key, value in group.items()}
