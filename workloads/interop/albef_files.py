"""Official ALBEF checkpoints in and out: one file, nested or flat, of any of the six layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workloads.albef.config import PairsConfig
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
    MappedTensors,
    OptimizerState,
    OptimizerStateError,
    map_tensors,
    meta_state_dict,
    read_optimizer_state,
    write_optimizer_state,
)
from workloads.interop.weight_files import read_content
from workloads.interop.weight_layouts import wrapper_prefix

MODEL, OPTIMIZER, EPOCH = "model", "optimizer", "epoch"
"""Keys of a nested file; the epoch is the number of the last completed one, from 0."""

WRITTEN = ("albef", "albef-retrieval")
"""Workloads whose models can be written."""

DERIVED = ("position_ids", "decoder.weight", "decoder.bias")
"""Suffixes of names in the pre-training layout that the model does not have."""


def read_albef(file: Path, overrides: Mapping[str, Any]) -> ForeignCheckpoint:
    """Return an official checkpoint as the complete state of our model, with everything else that it holds.

    Args:
        file: as the official code's torch.save wrote it.
        overrides: recipe values; another `model.image_size` resizes the position embeddings.

    Raises:
        WorkloadError: when it is of another kind, damaged, or does not fit the overrides.
    """
    content = read_content(file)
    if not isinstance(content, Mapping):
        raise WorkloadError(f"{file} holds a {type(content).__name__}, not the named tensors of a model")
    nested = isinstance(content.get(MODEL), Mapping)
    model, entries = (content[MODEL], dict(content)) if nested else (content, {})
    wrapper = wrapper_prefix([name for name, value in model.items() if isinstance(value, Tensor)])
    model = {name.removeprefix(wrapper): value for name, value in model.items()}
    tensors = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    layout = find_layout(tensors, str(file))
    config = find_config(tensors, layout, overrides, str(file))
    mapped = map_tensors(tensors, layout, config, str(file))
    mapped.notes += [f"{name} is no tensor and is left out" for name in model if name not in tensors]
    mapped.notes += [f"{wrapper} before all names is left out"] if wrapper else []
    optimizer = _read_optimizer(entries.get(OPTIMIZER), mapped, tensors, layout)
    metadata = {
        "layout": layout.name,
        "text_layers": layout.text_layers,
        "names": list(tensors),
        "tied": mapped.tied,
        "numbers": optimizer.scalars,
        "nested": nested,
        "beside": _plain_values(entries, mapped, with_optimizer=bool(optimizer.mapped)),
    }
    return ForeignCheckpoint(
        workload="albef",
        config=config,
        state=mapped.state,
        optimizer_state=optimizer.mapped,
        extra_tensors={**mapped.extra_tensors, **optimizer.extra_tensors},
        epochs=_epochs(entries),
        metadata=metadata,
        report=mapped.report(),
    )


def _read_optimizer(
    optimizer: Any, mapped: MappedTensors, tensors: Tensors, layout: CheckpointLayout
) -> OptimizerState:
    if optimizer is None:
        return OptimizerState()
    trained = trained_names(list(tensors), {name: tensor.shape for name, tensor in tensors.items()}, mapped.tied)
    shapes = {name: tensor.shape for name, tensor in mapped.state.items()}
    try:
        state = read_optimizer_state(optimizer, trained, layout, shapes)
    except OptimizerStateError as error:
        mapped.notes.append(f"the optimiser's state is left out: {error}")
        return OptimizerState()
    mapped.notes += [f"the optimiser's state of {name} is left out: its shape changed" for name in state.left_out]
    return state


def _epochs(entries: Mapping[str, Any]) -> float | None:
    epoch = entries.get(EPOCH)
    return float(epoch + 1) if isinstance(epoch, int) else None


def _plain_values(entries: Mapping[str, Any], mapped: MappedTensors, with_optimizer: bool) -> dict[str, Any]:
    """Return the file's entries that JSON can represent, in the file's order; the model itself is None."""
    plain: dict[str, Any] = {}
    for key, value in entries.items():
        if key == MODEL:
            plain[key] = None
        elif key == OPTIMIZER:
            plain |= {key: {"param_groups": value["param_groups"]}} if with_optimizer else {}
        elif _is_plain(value):
            plain[key] = value
        else:
            mapped.notes.append(f"{key} is neither numbers nor text and is left out")
    return plain


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def write_albef(checkpoint: ForeignCheckpoint, file: Path, flat: bool) -> None:
    """Write a checkpoint in the official layout, which torch.load reads with weights_only=True.

    An imported checkpoint is written in the layout that it was read in; any other nested, in that of pre-training or,
    where pairs match by their image, of retrieval.

    Args:
        checkpoint: of pre-training, or of fine-tuning for retrieval.
        file: a new file.
        flat: write the model's tensors only.

    Raises:
        WorkloadError: when the checkpoint is of another workload, or its image encoder is none that the layout has.
    """
    if checkpoint.workload not in WRITTEN or not isinstance(checkpoint.config, PairsConfig):
        raise WorkloadError(
            f"only models of the workload {' or '.join(WRITTEN)} have this format, not those of {checkpoint.workload!r}"
        )
    _check_image_encoder(checkpoint.config)
    metadata = checkpoint.metadata or _native(checkpoint, checkpoint.config)
    layout = CheckpointLayout(metadata["layout"], metadata["text_layers"])
    model = _official_tensors(checkpoint, layout, metadata["names"])
    if flat or not metadata["nested"]:
        torch.save(model, file)
        return
    content = dict(metadata["beside"]) | {MODEL: model}
    if checkpoint.optimizer_state:
        content[OPTIMIZER] = _optimizer_state_dict(checkpoint, layout, metadata, model)
    torch.save(content, file)


def _check_image_encoder(config: PairsConfig) -> None:
    """Refuse what the official code could not build."""
    name, (height, width) = config.model.vision.name, config.model.image_hw
    if name is not None:
        found = f"model.vision.name: the image encoder is {name}, and the official layout has only ALBEF's own ViT"
    elif height != width:
        found = f"model.image_size: images are of {height} x {width} pixels, and the official code knows squares alone"
    else:
        return
    raise WorkloadError(f"{found}; export the model with --format safetensors")


def _official_tensors(
    checkpoint: ForeignCheckpoint, layout: CheckpointLayout, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the tensors by official names; tied tensors share memory, as in the official files.

    A teacher that shares locked parts with the student has no tensors of its own for them: it gets the student's.
    """
    stored: dict[str, Tensor] = {}
    for name in names:
        our = layout.our_name(name)
        if name in checkpoint.extra_tensors:
            stored[name] = checkpoint.extra_tensors[name]
        elif our is not None and our in checkpoint.state:
            stored[name] = checkpoint.state[our]
        elif our is not None and (students := our.replace("teacher.", "student.", 1)) in checkpoint.state:
            stored[name] = checkpoint.state[students]
    return {name: stored[name] if name in stored else _derived(layout, name, stored) for name in names}


def _derived(layout: CheckpointLayout, name: str, stored: Mapping[str, Tensor]) -> Tensor:
    tensor = layout.derived(name, stored)
    if tensor is None:
        raise WorkloadError(
            f"the checkpoint lacks the tensor that {name} is derived from; import the official file again"
        )
    return tensor


def _native(checkpoint: ForeignCheckpoint, config: PairsConfig) -> dict[str, Any]:
    """Return the metadata of a model that was never in the official layout."""
    layout = "retrieval" if config.matches_by_image else "pretrain"
    names = canonical_names(list(meta_state_dict(config)), layout)
    entries: dict[str, Any] = {MODEL: None, OPTIMIZER: None, "lr_scheduler": {}}
    entries |= {"config": config.model_dump(mode="json"), EPOCH: round(checkpoint.epochs or 0) - 1}
    return {
        "layout": layout,
        "text_layers": config.model.text.layers,
        "names": names,
        "tied": [name for name in names if name.endswith(DERIVED)],
        "numbers": [],
        "nested": True,
        "beside": entries if checkpoint.optimizer_state else {key: entries[key] for key in entries if key != OPTIMIZER},
    }


def _optimizer_state_dict(
    checkpoint: ForeignCheckpoint, layout: CheckpointLayout, metadata: Mapping[str, Any], model: Mapping[str, Tensor]
) -> dict[str, Any]:
    shapes = {name: tensor.shape for name, tensor in model.items()}
    trained = trained_names(metadata["names"], shapes, metadata["tied"])
    state = write_optimizer_state(
        checkpoint.optimizer_state, checkpoint.extra_tensors, trained, layout, metadata["numbers"]
    )
    imported = metadata["beside"].get(OPTIMIZER)
    if imported:
        groups = [_with_tuples(group) for group in imported["param_groups"]]
    else:
        groups = _param_groups(checkpoint.hyperparameters, [is_no_decay(name, shapes[name]) for name in trained])
    return {"state": state, "param_groups": groups}


def _param_groups(options: Mapping[str, Any], no_decay: Sequence[bool]) -> list[dict[str, Any]]:
    """Return AdamW's two groups, without and with weight decay."""
    shared = {
        "lr": options["learning_rate"],
        "betas": tuple(options["betas"]),
        "eps": options["epsilon"],
        "amsgrad": False,
    }
    count = sum(no_decay)
    return [
        {**shared, "weight_decay": 0.0, "params": list(range(count))},
        {**shared, "weight_decay": options["weight_decay"], "params": list(range(count, len(no_decay)))},
    ]


def _with_tuples(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if key == "betas" else value for key, value in group.items()}
