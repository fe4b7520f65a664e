"""The complete state of our model, and its optimizer state, from the tensors of an official ALBEF checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workloads.albef.config import AlbefConfig, PairsConfig
from workloads.albef.model import AlbefModel, image_shape
from workloads.albef.model_config import LockConfig
from workloads.contract import ImportReport, KeyedRandom, WorkloadError
from workloads.interop.albef_layout import CheckpointLayout, Tensors
from workloads.nn.meta import on_meta
from workloads.nn.momentum import FeatureQueue
from workloads.nn.vision import resize_positions

INIT_KEY = KeyedRandom(("albef", "import"))
"""Key of the random initial values of tensors that a checkpoint lacks."""


@dataclass
class MappedTensors:
    """A file's tensors, mapped to our model's state; see `ImportReport` for the lists of names.

    Args:
        state: the model's state_dict, complete after `map_tensors`.
        extra_tensors: tensors that the model does not have, by their names in the file.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    tied: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self) -> ImportReport:
        """Return the names without the tensors."""
        left_over = set(self.left_over)
        return ImportReport(
            used=tuple(self.used),
            resized=tuple(self.resized),
            tied=tuple(self.tied),
            aside=tuple(name for name in self.extra_tensors if name not in left_over),
            left_over=tuple(self.left_over),
            copied=tuple(self.copied),
            missing=tuple(self.missing),
            notes=tuple(self.notes),
        )


def map_tensors(tensors: Tensors, layout: CheckpointLayout, config: AlbefConfig, source: str) -> MappedTensors:
    """Return the model's complete state, and what became of every tensor of the file.

    Args:
        tensors: of the file, by official name.
        layout: their layout.
        config: of the model.
        source: named in messages.

    Raises:
        WorkloadError: when a tensor's shape contradicts the others.
    """
    meta, mapped = meta_state_dict(config), MappedTensors()
    for name, tensor in tensors.items():
        derived = layout.derived(name, tensors)
        if derived is not None and torch.equal(derived, tensor):
            mapped.tied.append(name)
            continue
        if derived is not None:
            mapped.notes.append(
                f"{name} differs from what it is tied to; it is stored separately, and the model uses the other"
            )
        _map(mapped, name, tensor, layout.our_name(name), meta, config, source)
        if name in mapped.extra_tensors and derived is None and not layout.known(name) and not name.endswith("_queue"):
            mapped.left_over.append(name)
    _fill_missing(mapped, meta, config)
    return mapped


def meta_state_dict(config: PairsConfig) -> dict[str, Tensor]:
    """Return the model's state_dict on the meta device, without locks: names and shapes without values."""
    unlocked = config.model_copy(update={"model": config.model.model_copy(update={"lock": LockConfig()})})
    return dict(on_meta(lambda: AlbefModel(unlocked, INIT_KEY)).state_dict())


def _map(
    mapped: MappedTensors,
    name: str,
    tensor: Tensor,
    our: str | None,
    meta: Mapping[str, Tensor],
    config: AlbefConfig,
    source: str,
) -> None:
    if our is None or our not in meta:
        mapped.extra_tensors[name] = tensor
        return
    if name.endswith("pos_embed"):
        tensor = _resized(mapped, name, tensor, config)
    if tensor.shape != meta[our].shape:
        if our.startswith("queue."):
            mapped.extra_tensors[name] = tensor
            return
        raise WorkloadError(
            f"{source}: {name} is {list(tensor.shape)} where its other tensors speak of {list(meta[our].shape)}; "
            "it is damaged or of another model"
        )
    mapped.used.append(name)
    mapped.state[our] = tensor.contiguous()


def _resized(mapped: MappedTensors, name: str, tensor: Tensor, config: AlbefConfig) -> Tensor:
    resized = resize_positions(tensor, image_shape(config.model).grid)
    if resized.shape != tensor.shape:
        mapped.resized.append(name)
    return resized


def _fill_missing(mapped: MappedTensors, meta: Mapping[str, Tensor], config: AlbefConfig) -> None:
    """Add the tensors that the file lacks: the teacher from the student, queues and heads at random."""
    missing = [name for name in meta if name not in mapped.state]
    queue = [name for name in missing if name.startswith("queue.")]
    heads = [name for name in missing if name.startswith("student.")]
    if queue:
        _init_queue(mapped, config)
    if heads:
        initial = AlbefModel(_without_queue(config), INIT_KEY).state_dict()
        mapped.state |= {name: initial[name] for name in heads}
    teacher = [name for name in missing if name.startswith("teacher.")]
    mapped.state |= {name: mapped.state[name.replace("teacher.", "student.", 1)].clone() for name in teacher}
    mapped.missing += [*heads, *(name for name in mapped.state if queue and name.startswith("queue."))]
    mapped.copied += teacher


def _init_queue(mapped: MappedTensors, config: AlbefConfig) -> None:
    """Initialise all three parts: one queue without the other, or a pointer into another queue, would be wrong."""
    present = [name for name in ("image_queue", "text_queue", "queue_ptr") if name in mapped.used]
    mapped.extra_tensors |= {name: mapped.state.pop(f"queue.{name}") for name in present}
    mapped.used = [name for name in mapped.used if name not in present]
    queue = FeatureQueue(config.model.embed_dim, config.contrastive.queue_size, INIT_KEY.child("queue").torch())
    mapped.state |= {f"queue.{name}": tensor for name, tensor in queue.state_dict().items()}
    if mapped.extra_tensors.keys() & {"image_queue", "text_queue"}:
        size = config.contrastive.queue_size
        mapped.notes.append(
            f"the queue is initialised at random: the file's is incomplete or not of contrastive.queue_size={size}"
        )


def _without_queue(config: AlbefConfig) -> AlbefConfig:
    contrastive = config.contrastive.model_copy(update={"queue_size": 0})
    return config.model_copy(update={"contrastive": contrastive})


EXTRA_PREFIX = "optimizer/"
"""Prefix of optimizer state among the extra tensors; entry and official name follow."""


class OptimizerStateError(Exception):
    """The file's optimizer state is not that of its parameters; the message says why."""


@dataclass
class OptimizerState:
    """Optimizer state by parameter name; official checkpoints number the parameters instead.

    Args:
        mapped: of parameters that the model has, as `entry/parameter`.
        extra_tensors: of other parameters, as `optimizer/entry/parameter` with the official name.
        left_out: official names of parameters whose state no longer fits.
        scalars: entries that the file stores as Python numbers.
    """

    mapped: dict[str, Tensor] = field(default_factory=dict)
    extra_tensors: dict[str, Tensor] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    scalars: list[str] = field(default_factory=list)


def read_optimizer_state(
    optimizer: Mapping[str, Any], trained: Sequence[str], layout: CheckpointLayout, shapes: Mapping[str, torch.Size]
) -> OptimizerState:
    """Return the optimizer's state by parameter name.

    Args:
        optimizer: the state_dict of a torch optimizer.
        trained: official parameter names in the optimizer's order.
        layout: their layout.
        shapes: of the model's tensors, by our names.

    Raises:
        OptimizerStateError: when the state is of other parameters.
    """
    try:
        indices = [index for group in optimizer["param_groups"] for index in group["params"]]
        state: Mapping[int, Mapping[str, Any]] = optimizer["state"]
    except (KeyError, TypeError) as error:
        raise OptimizerStateError("it is not the state of a torch optimiser") from error
    if indices != list(range(len(trained))):
        raise OptimizerStateError(f"it is of {len(indices)} parameters and the model has {len(trained)}")
    named = OptimizerState()
    for index, entries in state.items():
        _add(named, trained[index], entries, layout.our_name(trained[index]), shapes)
    return named


def _add(
    named: OptimizerState, official: str, entries: Mapping[str, Any], our: str | None, shapes: Mapping[str, torch.Size]
) -> None:
    tensors = {entry: _tensor(official, value) for entry, value in entries.items()}
    named.scalars += [
        entry for entry, value in entries.items() if not isinstance(value, Tensor) and entry not in named.scalars
    ]
    if our is None or our not in shapes:
        named.extra_tensors |= {f"{EXTRA_PREFIX}{entry}/{official}": tensor for entry, tensor in tensors.items()}
    elif any(tensor.ndim and tensor.shape != shapes[our] for tensor in tensors.values()):
        named.left_out.append(official)
    else:
        named.mapped |= {f"{entry}/{our}": tensor.contiguous() for entry, tensor in tensors.items()}


def _tensor(official: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    raise OptimizerStateError(f"the state of {official} holds a {type(value).__name__}")


def write_optimizer_state(
    optimizer_state: Mapping[str, Tensor],
    extra_tensors: Mapping[str, Tensor],
    trained: Sequence[str],
    layout: CheckpointLayout,
    scalars: Sequence[str],
) -> dict[int, dict[str, Any]]:
    """Return the `state` of the official optimizer, the inverse of `read_optimizer_state`.

    Args:
        optimizer_state: by our names, as `entry/parameter`.
        extra_tensors: of the checkpoint; only those that begin with `optimizer/` are read.
        trained: official parameter names in the optimizer's order.
        layout: their layout.
        scalars: entries to write as integers.
    """
    extra = {
        key.removeprefix(EXTRA_PREFIX): tensor for key, tensor in extra_tensors.items() if key.startswith(EXTRA_PREFIX)
    }
    by_name: dict[str, dict[str, Any]] = {}
    for key, tensor in (*optimizer_state.items(), *extra.items()):
        entry, _, name = key.partition("/")
        by_name.setdefault(name, {})[entry] = int(tensor) if entry in scalars else tensor
    state: dict[int, dict[str, Any]] = {}
    for index, official in enumerate(trained):
        entries = by_name.get(official) or by_name.get(layout.our_name(official) or "")
        if entries:
            state[index] = {entry: entries[entry] for entry in sorted(entries, key=_entry_order)}
    return state


def _entry_order(entry: str) -> tuple[bool, str]:
    return entry != "step", entry
