"""From the tensors of an official ALBEF checkpoint to the complete state of our model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workloads.albef.config import AlbefConfig
from workloads.albef.model import AlbefModel
from workloads.contract import ImportReport, KeyedRandom, WorkloadError
from workloads.interop.albef_layout import CheckpointLayout, Tensors
from workloads.interop.pretrained import resize_positions
from workloads.nn.momentum import FeatureQueue

INIT_KEY = KeyedRandom(("albef", "import"))
"""The key of what a checkpoint lacks."""


def meta_state_dict(config: AlbefConfig) -> dict[str, Tensor]:
    """Return the model's state_dict without values, for names and shapes."""
    with torch.device("meta"), _SkipInit():
        return dict(AlbefModel(config, INIT_KEY).state_dict())


class _SkipInit(TorchFunctionMode):
    """Skips the drawing of initial values, which takes long even where there are none."""

    DRAWING = frozenset(getattr(Tensor, name) for name in ("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_"))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self.DRAWING else func(*args, **(kwargs or {}))


@dataclass
class MappedTensors:
    """A file's tensors, sorted by what becomes of them; see `ImportReport`."""

    state: dict[str, Tensor] = field(default_factory=dict)
    aside: dict[str, Tensor] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    tied: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self) -> ImportReport:
        """Return the names alone."""
        left_over = set(self.left_over)
        return ImportReport(
            used=tuple(self.used),
            resized=tuple(self.resized),
            tied=tuple(self.tied),
            aside=tuple(name for name in self.aside if name not in left_over),
            left_over=tuple(self.left_over),
            copied=tuple(self.copied),
            missing=tuple(self.missing),
            notes=tuple(self.notes),
        )


def map_tensors(tensors: Tensors, layout: CheckpointLayout, config: AlbefConfig, source: str) -> MappedTensors:
    """Return the model's complete state and what became of every tensor.

    Raises:
        WorkloadError: when a tensor's shape contradicts the others.
    """
    wanted, found = meta_state_dict(config), MappedTensors()
    for name, tensor in tensors.items():
        derived = layout.derived(name, tensors)
        if derived is not None and torch.equal(derived, tensor):
            found.tied.append(name)
            continue
        if derived is not None:
            found.notes.append(f"{name} differs from what it is tied to; it is kept aside, the model uses the other")
        _place(found, name, tensor, layout.our_name(name), wanted, config, source)
        if name in found.aside and derived is None and not layout.known(name) and not name.endswith("_queue"):
            found.left_over.append(name)
    _complete(found, wanted, config)
    return found


def _place(
    found: MappedTensors,
    name: str,
    tensor: Tensor,
    our: str | None,
    wanted: Mapping[str, Tensor],
    config: AlbefConfig,
    source: str,
) -> None:
    if our is None or our not in wanted:
        found.aside[name] = tensor
        return
    if name.endswith("pos_embed"):
        tensor = _resized(found, name, tensor, config)
    if tensor.shape != wanted[our].shape:
        if our.startswith("queue."):
            found.aside[name] = tensor
            return
        raise WorkloadError(
            f"{source}: {name} is {list(tensor.shape)} where its other tensors speak of {list(wanted[our].shape)}; "
            "it is damaged or of another model"
        )
    found.used.append(name)
    found.state[our] = tensor.contiguous()


def _resized(found: MappedTensors, name: str, tensor: Tensor, config: AlbefConfig) -> Tensor:
    resized = resize_positions(tensor, config.model.image_size // config.model.vision.patch)
    if resized.shape != tensor.shape:
        found.resized.append(name)
    return resized


def _complete(found: MappedTensors, wanted: Mapping[str, Tensor], config: AlbefConfig) -> None:
    """Add what the file lacks: a teacher from the student, queues and heads at random."""
    lacking = [name for name in wanted if name not in found.state]
    queue = [name for name in lacking if name.startswith("queue.")]
    heads = [name for name in lacking if name.startswith("student.")]
    if queue:
        _fresh_queue(found, config)
    if heads:
        fresh = AlbefModel(_without_queue(config), INIT_KEY).state_dict()
        found.state |= {name: fresh[name] for name in heads}
    teacher = [name for name in lacking if name.startswith("teacher.")]
    found.state |= {name: found.state[name.replace("teacher.", "student.", 1)].clone() for name in teacher}
    found.missing += [*heads, *(name for name in found.state if queue and name.startswith("queue."))]
    found.copied += teacher


def _fresh_queue(found: MappedTensors, config: AlbefConfig) -> None:
    """Start all three parts anew: one queue alone, or a pointer into another queue, would be wrong."""
    kept = [name for name in ("image_queue", "text_queue", "queue_ptr") if name in found.used]
    found.aside |= {name: found.state.pop(f"queue.{name}") for name in kept}
    found.used = [name for name in found.used if name not in kept]
    queue = FeatureQueue(config.model.embed_dim, config.contrastive.queue_size, INIT_KEY.child("queue").torch())
    found.state |= {f"queue.{name}": tensor for name, tensor in queue.state_dict().items()}
    if found.aside.keys() & {"image_queue", "text_queue"}:
        size = config.contrastive.queue_size
        found.notes.append(
            f"the queue starts anew: the file's is not whole or not of size contrastive.queue_size={size}"
        )


def _without_queue(config: AlbefConfig) -> AlbefConfig:
    contrastive = config.contrastive.model_copy(update={"queue_size": 0})
    return config.model_copy(update={"contrastive": contrastive})


# The optimiser's state in official ALBEF checkpoints, where parameters are counted instead of named.


EXTRA_PREFIX = "optimizer/"
"""What the names of kept-aside optimiser state begin with; then come entry and official name."""


class OptimizerStateError(Exception):
    """The file's optimiser state is not that of its parameters; the message says why."""


@dataclass
class OptimizerState:
    """Optimiser state by name.

    Args:
        ours: of parameters that the model has, as `entry/parameter`.
        aside: of other parameters, as `optimizer/entry/parameter` with the official name.
        left_out: official names of parameters whose state no longer fits.
        numbers: entries that the file keeps as plain numbers.
    """

    ours: dict[str, Tensor] = field(default_factory=dict)
    aside: dict[str, Tensor] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)


def read_optimizer_state(
    optimizer: Mapping[str, Any], trained: Sequence[str], layout: CheckpointLayout, shapes: Mapping[str, torch.Size]
) -> OptimizerState:
    """Return the optimiser's state by parameter name.

    Args:
        optimizer: the state_dict of a torch optimiser.
        trained: official parameter names in the optimiser's order.
        layout: their layout.
        shapes: of the model's tensors, by our names.

    Raises:
        OptimizerStateError: when the state is of other parameters.
    """
    try:
        counted = [index for group in optimizer["param_groups"] for index in group["params"]]
        state: Mapping[int, Mapping[str, Any]] = optimizer["state"]
    except (KeyError, TypeError) as error:
        raise OptimizerStateError("it is not the state of a torch optimiser") from error
    if counted != list(range(len(trained))):
        raise OptimizerStateError(f"it is of {len(counted)} parameters and the model has {len(trained)}")
    optimizer_state = OptimizerState()
    for index, entries in state.items():
        _add(moments, trained[index], entries, layout.our_name(trained[index]), shapes)
    return moments


def _add(
    optimizer_state: OptimizerState, official: str, entries: Mapping[str, Any], our: str | None, shapes: Mapping[str, torch.Size]
) -> None:
    tensors = {entry: _tensor(official, value) for entry, value in entries.items()}
    moments.numbers += [
        entry for entry, value in entries.items() if not isinstance(value, Tensor) and entry not in moments.numbers
    ]
    if our is None or our not in shapes:
        moments.aside |= {f"{EXTRA_PREFIX}{entry}/{official}": tensor for entry, tensor in tensors.items()}
    elif any(tensor.ndim and tensor.shape != shapes[our] for tensor in tensors.values()):
        moments.left_out.append(official)
    else:
        moments.ours |= {f"{entry}/{our}": tensor.contiguous() for entry, tensor in tensors.items()}


def _tensor(official: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    raise OptimizerStateError(f"the state of {official} holds a {type(value).__name__}")


def write_optimizer_state(
    optimizer_state: Mapping[str, Tensor],
    aside: Mapping[str, Tensor],
    trained: Sequence[str],
    layout: CheckpointLayout,
    numbers: Sequence[str],
) -> dict[int, dict[str, Any]]:
    """Return the `state` of the official optimiser: what `read_optimizer_state` took apart.

    Args:
        moments: by our names, as `entry/parameter`.
        aside: kept-aside tensors, of which those that begin with `optimizer/` count.
        trained: official parameter names in the optimiser's order.
        layout: their layout.
        numbers: entries to write as whole numbers.
    """
    kept = {key.removeprefix(EXTRA_PREFIX): tensor for key, tensor in aside.items() if key.startswith(EXTRA_PREFIX)}
    by_name: dict[str, dict[str, Any]] = {}
    for key, tensor in (*moments.items(), *kept.items()):
        entry, _, name = key.partition("/")
        by_name.setdefault(name, {})[entry] = int(tensor) if entry in numbers else tensor
    state: dict[int, dict[str, Any]] = {}
    for index, official in enumerate(trained):
        entries = by_name.get(official) or by_name.get(layout.our_name(official) or "")
        if entries:
            state[index] = {entry: entries[entry] for entry in sorted(entries, key=_entry_order)}
    return state


def _entry_order(entry: str) -> tuple[bool, str]:
    return entry != "step", entry
