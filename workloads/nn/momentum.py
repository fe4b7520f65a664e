"""The momentum teacher and its queue of features (ALBEF section 3.3, after MoCo, He et al. 2020).

The teacher is an exponential moving average of the student; the queue holds its newest features as extra keys of the
contrastive loss.

Shapes: R rows, E embedding width, Q size of the queue.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def init_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Copy the student's weights to the teacher and disable the teacher's gradients.

    Args:
        teacher: its parameter names are a subset of the student's.
        student: the source of the weights.
    """
    source = student.state_dict()
    teacher.load_state_dict({name: source[name] for name in teacher.state_dict()})
    teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Set teacher <- momentum * teacher + (1 - momentum) * student, for parameters only, in place."""
    source = dict(student.named_parameters())
    names, targets = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_(targets, [source[name] for name in names], 1 - momentum)


NO_IMAGE = -100
"""Stands for the image id of features that a queue starts with, as in the official ALBEF; image ids are at least 0."""


class FeatureQueue(nn.Module):
    """A first-in first-out queue of the newest Q image and text features, as columns; part of the checkpoint.

    Args:
        width: E.
        size: Q; 0 for no queue.
        generator: draws the unit vectors that the queue starts with.
        identified: whether the queue also remembers the image ids of its features, in `idx_queue`, int64 [1, Q].
    """

    image_queue: Tensor
    text_queue: Tensor
    queue_ptr: Tensor
    idx_queue: Tensor

    def __init__(
        self, width: int, size: int, generator: torch.Generator | None = None, identified: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("image_queue", F.normalize(torch.randn(width, size, generator=generator), dim=0))
        self.register_buffer("text_queue", F.normalize(torch.randn(width, size, generator=generator), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        ids_1Q = torch.full((1, size if identified else 0), NO_IMAGE)
        self.register_buffer("idx_queue", ids_1Q, persistent=identified)

    @torch.no_grad()
    def enqueue(self, image_RE: Tensor, text_RE: Tensor, image_id_R: Tensor | None = None) -> None:
        """Overwrite the oldest features with any number of new ones, in order, wrapping around.

        Args:
            image_RE: features of images.
            text_RE: features of texts.
            image_id_R: int64, for a queue that is identified.
        """
        size, rows = self.image_queue.shape[1], len(image_RE)
        if size == 0:
            return
        overflow = max(rows - size, 0)
        columns = (self.queue_ptr + torch.arange(overflow, rows, device=self.queue_ptr.device)) % size
        self.image_queue[:, columns] = image_RE[overflow:].T.to(self.image_queue.dtype)
        self.text_queue[:, columns] = text_RE[overflow:].T.to(self.text_queue.dtype)
        if image_id_R is not None:
            self.idx_queue[0, columns] = image_id_R[overflow:]
        self.queue_ptr.copy_((self.queue_ptr + rows) % size)

    def key_ids(self, image_id_B: Tensor) -> Tensor:
        """Return the image ids of a micro-batch's own keys and of the queue's, [B + Q]; for an identified queue."""
        return torch.cat([image_id_B, self.idx_queue[0]])
