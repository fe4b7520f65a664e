"""Official ALBEF checkpoints in: one file, nested or flat, of any of the six layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from workloads.contract import ForeignCheckpoint, WorkloadError
from workloads.interop.albef_layout import Layout, Tensors, trained_names
from workloads.interop.albef_optimizer import Moments, UnknownOptimizer, read_moments
from workloads.interop.albef_sizes import find_config, find_layout
from workloads.interop.albef_state import Sorting, sort_tensors
from workloads.interop.torch_file import load_torch_file

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
    found = sort_tensors(tensors, layout, config, str(file))
    found.notes += [f"{name} is no tensor and is left out" for name in model if name not in tensors]
    moments = _moments(beside.get(OPTIMIZER), found, tensors, layout)
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
        moments=moments.ours,
        aside={**found.aside, **moments.aside},
        epochs=_epochs(beside),
        metadata=metadata,
        report=found.report(),
    )


def _moments(optimizer: Any, found: Sorting, tensors: Tensors, layout: Layout) -> Moments:
    if optimizer is None:
        return Moments()
    trained = trained_names(list(tensors), {name: tensor.shape for name, tensor in tensors.items()}, found.tied)
    shapes = {name: tensor.shape for name, tensor in found.state.items()}
    try:
        moments = read_moments(optimizer, trained, layout, shapes)
    except UnknownOptimizer as error:
        found.notes.append(f"the optimiser's state is left out: {error}")
        return Moments()
    found.notes += [f"the optimiser's state of {name} is left out: its shape changed" for name in moments.left_out]
    return moments


def _epochs(beside: Mapping[str, Any]) -> float | None:
    epoch = beside.get(EPOCH)
    return float(epoch + 1) if isinstance(epoch, int) else None


def _plain_values(beside: Mapping[str, Any], found: Sorting, with_optimizer: bool) -> dict[str, Any]:
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
