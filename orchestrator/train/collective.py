"""What workers say to each other during a step."""

from __future__ import annotations

from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor


class Pending(Protocol):
    """A message on its way."""

    def wait(self) -> object:
        """Return once the result is there for whatever this worker computes next."""
        ...


class Collective(Protocol):
    """Communication between the workers of a run."""

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""
        ...

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers, in place."""
        ...

    def start_sum(self, tensor: Tensor) -> Pending:
        """Begin to replace a tensor on this worker's device by its sum over all workers, in place."""
        ...


class Arrived:
    """A message that took no time."""

    def wait(self) -> None:
        """Return at once."""


class SingleWorker:
    """A run with one worker has nobody to talk to."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> None:
        """Leave the tensor as it is."""

    def start_sum(self, tensor: Tensor) -> Pending:
        """Leave the tensor as it is."""
        return Arrived()


class TorchCollective:
    """Communication through the default process group of torch.distributed."""

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers, in place; it may be on another device than the messages."""
        message = tensor.to(self._device)
        dist.all_reduce(message)
        if message is not tensor:
            tensor.copy_(message)

    def start_sum(self, tensor: Tensor) -> Pending:
        """Begin to replace a tensor on this worker's device by its sum over all workers, in place."""
        return cast(Pending, dist.all_reduce(tensor, async_op=True))


def current_collective(device: torch.device) -> Collective:
    """Return the collective of this process, whose messages travel from a device."""
    return TorchCollective(device) if dist.is_initialized() and dist.get_world_size() > 1 else SingleWorker()
