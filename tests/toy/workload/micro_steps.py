"""One micro-batch of ALBEF, trained on as a worker does, without an optimiser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, MicroResult

Outcome = tuple[MicroResult, dict[str, Tensor]]
"""The result of a micro-batch, and the student's gradients by name."""


def backward(loss: Tensor, retain_graph: bool = False, final: bool = False) -> None:
    """What a single worker passes to `micro_step`."""
    loss.backward(retain_graph=retain_graph)


def run(workload: AlbefWorkload, batch: Mapping[str, Tensor], clock: Clock) -> Outcome:
    """Train on a micro-batch."""
    student = workload.model.student
    student.zero_grad()
    workload.begin_step(clock)
    torch.manual_seed(5)
    result = workload.micro_step(batch, clock, backward)
    return result, {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
