"""Official ALBEF checkpoints in: one file, nested or flat, of any of the six layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workloads.albef.config import AlbefConfig
from workloads.contract import ForeignCheckpoint, WorkloadError
from workloads.interop.albef_layout import (
    CheckpointLayout,
    Tensors,
    canonical_names,
    find_config,
    find_layout,
    is_no_decay,
    trained_names,
)
from workloads.interop.albef_state import (
    OptimizerState,
    MappedTensors,
    OptimizerStateError,
    meta_state_dict,
    read_optimizer_state,
    map_tensors,
    write_optimizer_state,
)
from workloads.interop.export import load_torch_file

MODEL, OPTIMIZER, EPOCH = "model", "optimizer", "epoch"
"""Keys of a nested file; the epoch is the number of the last one that was finished, from 0."""


def read_albef(file: Path, overrides: Mapping[str, Any]) -> ForeignCheckpoint:
    """Return an official checkpoint as the complete state of our model, with whatever else it holds.

    Args:
        file: as the official code's torch.save wrote it.
        overrides: recipe values; another `model.image_size` resizes the position embeddings.

    Raises:
        WorkloadError: when it is of another kind, damaged, or does not fit the overrides.
    """
    content = load_torch_file(file)
    if not isinstance(content, Mapping):
        raise WorkloadError(f"{file} holds a {type(content).__name__}, not the named tensors of a model")
    nested = isinstance(content.get(MODEL), Mapping)
    model, beside = (content[MODEL], dict(content)) if nested else (content, {})
    tensors = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    layout = find_layout(tensors, str(file))
    config = find_config(tensors, layout, overrides, str(file))
    found = map_tensors(tensors, layout, config, str(file))
    found.notes += [f"{name} is no tensor and is left out" for name in model if name not in tensors]
    optimizer_state = _moments(beside.get(OPTIMIZER), found, tensors, layout)
    metadata = {
        "layout": layout.name,
        "text_layers": layout.text_layers,
        "names": list(tensors),
        "tied": found.tied,
        "numbers": moments.numbers,
        "nested": nested,
        "beside": _plain_values(beside, found, with_optimizer=bool(moments.ours)),
    }
    return ForeignCheckpoint(
        workload="albef",
        config=config,
        state=found.state,
        optimizer_state=moments.ours,
        aside={**found.aside, **moments.aside},
        epochs=_epochs(beside),
        metadata=metadata,
        report=found.report(),
    )


def _moments(optimizer: Any, found: MappedTensors, tensors: Tensors, layout: CheckpointLayout) -> OptimizerState:
    if optimizer is None:
        return OptimizerState()
    trained = trained_names(list(tensors), {name: tensor.shape for name, tensor in tensors.items()}, found.tied)
    shapes = {name: tensor.shape for name, tensor in found.state.items()}
    try:
        optimizer_state = read_optimizer_state(optimizer, trained, layout, shapes)
    except OptimizerStateError as error:
        found.notes.append(f"the optimiser's state is left out: {error}")
        return OptimizerState()
    found.notes += [f"the optimiser's state of {name} is left out: its shape changed" for name in moments.left_out]
    return moments


def _epochs(beside: Mapping[str, Any]) -> float | None:
    epoch = beside.get(EPOCH)
    return float(epoch + 1) if isinstance(epoch, int) else None


def _plain_values(beside: Mapping[str, Any], found: MappedTensors, with_optimizer: bool) -> dict[str, Any]:
    """Return what JSON can hold of the values beside the model, in the file's order."""
    plain: dict[str, Any] = {}
    for key, value in beside.items():
        if key == MODEL:
            plain[key] = None
        elif key == OPTIMIZER:
            plain |= {key: {"param_groups": value["param_groups"]}} if with_optimizer else {}
        elif _is_plain(value):
            plain[key] = value
        else:
            found.notes.append(f"{key} is neither numbers nor text and is left out")
    return plain


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


# ALBEF models out, in the layout of the official checkpoints.


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
    layout = CheckpointLayout(metadata["layout"], metadata["text_layers"])
    model = _official_tensors(checkpoint, layout, metadata["names"])
    if flat or not metadata["nested"]:
        torch.save(model, file)
        return
    content = dict(metadata["beside"]) | {MODEL: model}
    if checkpoint.optimizer_state:
        content[OPTIMIZER] = _optimizer(checkpoint, layout, metadata, model)
    torch.save(content, file)


def _official_tensors(checkpoint: ForeignCheckpoint, layout: CheckpointLayout, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors by official names; tied ones share their memory, as in the official files."""
    stored: dict[str, Tensor] = {}
    for name in names:
        our = layout.our_name(name)
        if name in checkpoint.aside:
            stored[name] = checkpoint.aside[name]
        elif our is not None and our in checkpoint.state:
            stored[name] = checkpoint.state[our]
    return {name: stored[name] if name in stored else _derived(layout, name, stored) for name in names}


def _derived(layout: CheckpointLayout, name: str, stored: Mapping[str, Tensor]) -> Tensor:
    tensor = layout.derived(name, stored)
    if tensor is None:
        raise WorkloadError(f"the checkpoint lacks what {name} is made of; import the official file again")
    return tensor


def _native(checkpoint: ForeignCheckpoint, config: AlbefConfig) -> dict[str, Any]:
    """Return the metadata of a model that was never in the official layout."""
    names = canonical_names(list(meta_state_dict(config)))
    beside: dict[str, Any] = {MODEL: None, OPTIMIZER: None, "lr_scheduler": {}}
    beside |= {"config": config.model_dump(mode="json"), EPOCH: round(checkpoint.epochs or 0) - 1}
    return {
        "layout": "pretrain",
        "text_layers": config.model.text.layers,
        "names": names,
        "tied": [name for name in names if name.endswith(DERIVED)],
        "numbers": [],
        "nested": True,
        "beside": beside if checkpoint.optimizer_state else {key: beside[key] for key in beside if key != OPTIMIZER},
    }


def _optimizer(
    checkpoint: ForeignCheckpoint, layout: CheckpointLayout, metadata: Mapping[str, Any], model: Mapping[str, Tensor]
) -> dict[str, Any]:
    shapes = {name: tensor.shape for name, tensor in model.items()}
    trained = trained_names(metadata["names"], shapes, metadata["tied"])
    state = write_optimizer_state(checkpoint.optimizer_state, checkpoint.aside, trained, layout, metadata["numbers"])
    came_with = metadata["beside"].get(OPTIMIZER)
    if came_with:
        groups = [_with_tuples(group) for group in came_with["param_groups"]]
    else:
        groups = _groups(checkpoint.hyperparameters, [is_no_decay(name, shapes[name]) for name in trained])
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
