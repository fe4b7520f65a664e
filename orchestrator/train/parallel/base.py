"""The interfaces of a training step: how workers share the model (`Parallel`) and communicate (`Collective`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LocalShard:
    """A worker's shard of a tensor that is divided among the workers.

    Args:
        values: consecutive elements of the whole tensor, [elements]; a view of the local tensor.
        start: offset of the first one in the whole tensor, in elements.
    """

    values: Tensor
    start: int


class Parallel(Protocol):
    """How the workers share parameters, gradients and optimizer state.

    A step calls `begin_step`, any number of `backward`, `finish_backward` and `average_gradients`, then maybe
    `clip_gradients` and the optimiser. All workers call everything but `backward` and `clip_gradients` together; they
    may call `backward` different numbers of times.
    """

    def begin_step(self) -> None:
        """Clear the gradients and unshard the parameters for the passes of a step."""
        ...

    def backward(self, loss: Tensor, retain_graph: bool, last: bool) -> None:
        """Accumulate the gradient of a loss on this worker.

        Args:
            loss: a scalar.
            retain_graph: whether the graph is needed again.
            last: whether this is the worker's last call of the step.

        Raises:
            RuntimeError: a call came after the one with `last`.
        """
        ...

    def finish_backward(self) -> None:
        """Start summing the remaining gradients and reshard the parameters, as the optimiser expects them."""
        ...

    def average_gradients(self, weight: float) -> None:
        """Wait for the sums over all workers and divide them by a weight."""
        ...

    def gradient_norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d, the same on every worker."""
        ...

    def clip_gradients(self, norm: Tensor, max_norm: float) -> None:
        """Scale all gradients by the factor that reduces a norm to at most `max_norm`."""
        ...

    def unsharded(self) -> AbstractContextManager[None]:
        """Unshard the parameters for passes without gradients, on every worker, between steps."""
        ...

    def local_shard(self, tensor: Tensor) -> LocalShard | None:
        """Return this worker's shard of a tensor of the model or optimiser; None when it is replicated."""
        ...

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return, on worker 0, the named tensors of the model or optimiser unsharded."""
        ...

    def distribute(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Shard what `gather` returned as this worker holds it; keys end with the name of the parameter."""
        ...


class Work(Protocol):
    """An asynchronous collective in progress, as `torch.distributed.Work`."""

    def wait(self) -> object:
        """Block until later computations of this worker can use the result."""
        ...


class Collective(Protocol):
    """Collective communication between the workers of a run."""

    @property
    def rank(self) -> int:
        """This worker's rank, from 0."""
        ...

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers, in place."""
        ...

    def all_reduce_async(self, tensor: Tensor) -> Work:
        """Start replacing a tensor on this worker's device by its sum over all workers, in place."""
        ...


class CompletedWork:
    """A collective that is complete already."""

    def wait(self) -> None:
        """Return at once."""


class SingleWorker:
    """The collective of a run with one worker: does nothing."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> None:
        """Leave the tensor as it is."""

    def all_reduce_async(self, tensor: Tensor) -> Work:
        """Leave the tensor as it is."""
        return CompletedWork()


class TorchCollective:
    """The default process group of torch.distributed."""

    def __init__(self, device: torch.device) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._device = device

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all workers, in place; it may be on another device than the group's."""
        message = tensor.to(self._device)
        dist.all_reduce(message)
        if message is not tensor:
            tensor.copy_(message)

    def all_reduce_async(self, tensor: Tensor) -> Work:
        """Start replacing a tensor on this worker's device by its sum over all workers, in place."""
        return cast(Work, dist.all_reduce(tensor, async_op=True))


def current_collective(device: torch.device) -> Collective:
    """Return the collective of this process, whose tensors are sent from a device."""
    return TorchCollective(device) if dist.is_initialized() and dist.get_world_size() > 1 else SingleWorker()


def clip_scale(norm: Tensor, max_norm: float) -> Tensor:
    """Return the factor that reduces a gradient norm to at most `max_norm`, 0-d."""
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)
