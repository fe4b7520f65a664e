"""From the tensors of an official ALBEF checkpoint to the complete state of our model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workloads.contract import ImportReport, KeyedRandom, WorkloadError
from workloads.interop.albef_layout import Layout, Tensors
from workloads.interop.positions import resize_positions
from workloads.nn.queue import FeatureQueue
from workloads.pretrain.albef_config import AlbefConfig
from workloads.pretrain.albef_model import AlbefModel

FRESH = KeyedRandom(("albef", "import"))
"""The key of what a checkpoint lacks."""


def empty_state(config: AlbefConfig) -> dict[str, Tensor]:
    """Return the model's state_dict without values, for names and shapes."""
    with torch.device("meta"), _Undrawn():
        return dict(AlbefModel(config, FRESH).state_dict())


class _Undrawn(TorchFunctionMode):
    """Skips the drawing of initial values, which takes long even where there are none."""

    DRAWING = frozenset(getattr(Tensor, name) for name in ("normal_", "uniform_", "erfinv_", "mul_", "add_", "clamp_"))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self.DRAWING else func(*args, **(kwargs or {}))


@dataclass
class Sorting:
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


def sort_tensors(tensors: Tensors, layout: Layout, config: AlbefConfig, source: str) -> Sorting:
    """Return the model's complete state and what became of every tensor.

    Raises:
        WorkloadError: when a tensor's shape contradicts the others.
    """
    wanted, found = empty_state(config), Sorting()
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
    found: Sorting,
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


def _resized(found: Sorting, name: str, tensor: Tensor, config: AlbefConfig) -> Tensor:
    resized = resize_positions(tensor, config.model.image_size // config.model.vision.patch)
    if resized.shape != tensor.shape:
        found.resized.append(name)
    return resized


def _complete(found: Sorting, wanted: Mapping[str, Tensor], config: AlbefConfig) -> None:
    """Add what the file lacks: a teacher from the student, queues and heads at random."""
    lacking = [name for name in wanted if name not in found.state]
    queue = [name for name in lacking if name.startswith("queue.")]
    heads = [name for name in lacking if name.startswith("student.")]
    if queue:
        _fresh_queue(found, config)
    if heads:
        fresh = AlbefModel(_without_queue(config), FRESH).state_dict()
        found.state |= {name: fresh[name] for name in heads}
    teacher = [name for name in lacking if name.startswith("teacher.")]
    found.state |= {name: found.state[name.replace("teacher.", "student.", 1)].clone() for name in teacher}
    found.missing += [*heads, *(name for name in found.state if queue and name.startswith("queue."))]
    found.copied += teacher


def _fresh_queue(found: Sorting, config: AlbefConfig) -> None:
    """Start all three parts anew: one queue alone, or a pointer into another queue, would be wrong."""
    kept = [name for name in ("image_queue", "text_queue", "queue_ptr") if name in found.used]
    found.aside |= {name: found.state.pop(f"queue.{name}") for name in kept}
    found.used = [name for name in found.used if name not in kept]
    queue = FeatureQueue(config.model.embed_dim, config.contrastive.queue_size, FRESH.child("queue").torch())
    found.state |= {f"queue.{name}": tensor for name, tensor in queue.state_dict().items()}
    if found.aside.keys() & {"image_queue", "text_queue"}:
        size = config.contrastive.queue_size
        found.notes.append(
            f"the queue starts anew: the file's is not whole or not of size contrastive.queue_size={size}"
        )


def _without_queue(config: AlbefConfig) -> AlbefConfig:
    contrastive = config.contrastive.model_copy(update={"queue_size": 0})
    return config.model_copy(update={"contrastive": contrastive})
