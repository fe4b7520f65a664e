"""Training a tiny ALBEF as the official code was run for the recorded values, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from micro_steps import backward
from torch import Tensor

from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, KeyedRandom

KEY = KeyedRandom((0,))

MODEL: dict[str, Any] = {
    "image_size": 32,
    "vision": {"patch": 16, "width": 48, "depth": 2, "heads": 3},
    "text": {"width": 48, "layers": 2, "fusion_layers": 2, "heads": 3, "vocabulary": 300},
    "embed_dim": 32,
    "dropout": 0.0,
    "vision_weights": None,
    "text_weights": None,
}
"""The recorded model; how many positions it has depends on the record."""

TRAINING: dict[str, Any] = {
    "contrastive": {"queue_size": 16, "decay_temperature": True},
    "distillation": {"ramp_epochs": 0.0},
}


class Trained(NamedTuple):
    """A workload after its steps, what each of them gave, and the gradients of the first."""

    workload: AlbefWorkload
    history: list[dict[str, float]]
    first_gradients: dict[str, Tensor]


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a record below a prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def our_name(official: str) -> str:
    """Where a tensor of the official state lives in AlbefModel; models of fine-tuning have no `bert` in their names."""
    part, _, rest = official.partition(".")
    if part.endswith(("queue", "queue_ptr")):
        return f"queue.{official}"
    owner, part = "teacher" if part.endswith("_m") else "student", part.removesuffix("_m")
    if part == "text_encoder" and not rest.startswith(("bert.", "cls.")):
        rest = f"bert.{rest}"
    return ".".join(filter(None, [owner, part, rest]))


def clock(step: int, steps: int) -> Clock:
    """The clock of a step over the recorded batch of four, which is the whole epoch."""
    return Clock(step, steps, samples=4 * step, epoch_samples=4, draw=KEY.child(step))


def train(workload: AlbefWorkload, batch: Mapping[str, Tensor], steps: int) -> Trained:
    """Train on one batch again and again, with the optimiser of the record."""
    groups = [
        {"params": list(group.parameters), "weight_decay": 0.02 if group.weight_decay else 0.0}
        for group in workload.parameter_groups()
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    history: list[dict[str, float]] = []
    first_gradients: dict[str, Tensor] = {}
    for step in range(steps):
        at = clock(step, steps)
        optimizer.zero_grad()
        workload.begin_step(at)
        result = workload.micro_step(batch, at, backward)
        student = workload.model.student
        gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
        first_gradients = first_gradients or gradients
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
        optimizer.step()
        workload.end_step(at, result.shared)
        pointer = int(workload.model.queue.queue_ptr)
        history.append({**{k: float(v) for k, v in result.metrics.items()}, "grad_norm": norm, "queue_ptr": pointer})
    return Trained(workload, history, first_gradients)
