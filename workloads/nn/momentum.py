"""The momentum teacher: a slowly moving copy of the student (ALBEF section 3.3, after MoCo, He et al. 2020)."""

from __future__ import annotations

import torch
from torch import nn


def start_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Give the teacher the student's weights, and no gradients.

    Args:
        teacher: its parameter names are a subset of the student's.
        student: where the weights come from.
    """
    source = student.state_dict()
    teacher.load_state_dict({name: source[name] for name in teacher.state_dict()})
    teacher.requires_grad_(False)


@torch.no_grad()
def move_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set teacher <- momentum * teacher + (1 - momentum) * student, over parameters only."""
    source = dict(student.named_parameters())
    names, targets = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_(targets, [source[name] for name in names], 1 - momentum)
