"""What a training step asks of the way in which workers share the model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shard:
    """A worker's share of a tensor that is divided among the workers.

    Args:
        values: elements that follow each other in the whole tensor, [elements]; a view of the worker's own.
        start: place of the first one in the whole tensor.
    """

    values: Tensor
    start: int


class Parallel(Protocol):
    """How the workers share parameters, gradients and the optimiser's state.

    A step calls `begin`, any number of `backward`, `finish` and `average`, then maybe `clip` and the optimiser. All
    workers call everything but `backward` and `clip` together; how often a worker calls `backward` is its own affair.
    """

    def begin(self) -> None:
        """Clear the gradients and make the parameters whole for the passes of a step."""
        ...

    def backward(self, loss: Tensor, retain_graph: bool, last: bool) -> None:
        """Accumulate the gradient of a loss on this worker.

        Args:
            loss: a scalar.
            retain_graph: whether the graph is needed again.
            last: whether this is the worker's last call of the step.

        Raises:
            RuntimeError: a call said that it was the last, but another followed.
        """
        ...

    def finish(self) -> None:
        """Send what is left to be summed; from here on the optimiser's view of the parameters holds."""
        ...

    def average(self, weight: float) -> None:
        """Wait for the sums over all workers and divide them by a weight."""
        ...

    def norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d, the same on every worker."""
        ...

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients by what brings a norm down to at most `largest`."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """Make the parameters whole for passes without gradients, on every worker, between steps."""
        ...

    def shard(self, tensor: Tensor) -> Shard | None:
        """Return this worker's share of a tensor of the model or the optimiser; None when every worker holds it all."""
        ...

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return, on worker 0, the named tensors of the model or the optimiser as one worker alone would have them."""
        ...

    def placed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what `gathered` returned as this worker holds it; keys end with the name of the parameter."""
        ...


# What workers say to each other during a step.


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
