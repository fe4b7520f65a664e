"""Fully sharded data parallelism (FSDP2): every worker holds a shard of parameters, gradients and optimizer state.

Parameters are unsharded once for all passes of a step and gradients are reduced once after them, unit by unit in a
fixed order. Nothing is sent during a pass (`reshard_after_forward=False`, no gradient sync in the workload's backward):
workers may run different numbers of micro-batches, a micro-batch of few samples may leave parts of the model out, and
adversarial passes visit a layer many times, while messages inside passes would have to match on all workers.

So during the passes a worker needs memory for all parameters and for the gradients of the trained ones;
between steps and while the optimiser runs, all of that and the optimizer state are divided among the workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from orchestrator.train.parallel.base import Collective, LocalShard, clip_scale


class Sharded:
    """FSDP; implements `Parallel`. 0-d parameters, such as a temperature, stay replicated.

    Args:
        model: built already and equal on all workers; sharded in place.
        units: modules whose parameters are gathered as one message; the remaining parameters are a unit as well.
        collective: the other workers.
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, units: Sequence[nn.Module], collective: Collective, device: torch.device
    ) -> None:
        self._collective = collective
        self._model = model
        self._root, self._units = _shard(model, units, collective.size, device)
        self._parameters = dict(model.named_parameters())
        trained = [parameter for parameter in self._parameters.values() if parameter.requires_grad]
        self._shards = [parameter for parameter in trained if isinstance(parameter, DTensor)]
        self._scalars = [parameter for parameter in trained if not isinstance(parameter, DTensor)]

    def begin_step(self) -> None:
        """Clear the gradients and unshard the parameters."""
        for parameter in self._shards + self._scalars:
            parameter.grad = None
        self._unshard()

    def backward(self, loss: Tensor, retain_graph: bool, last: bool) -> None:
        """Accumulate the gradient of a loss; nothing is sent."""
        loss.backward(retain_graph=retain_graph)

    def finish_backward(self) -> None:
        """Sum the gradients over all workers; each keeps its shards of them and of the parameters."""
        for parameter in self._model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _reduce_in_backward(self._units, True)
        self._root(torch.zeros((), requires_grad=True)).backward()
        _reduce_in_backward(self._units, False)
        for scalar in self._scalars:
            self._collective.all_reduce(_gradient(scalar))

    def average_gradients(self, weight: float) -> None:
        """Divide the gradients by a weight."""
        if weight != 1.0:
            torch._foreach_div_(self._gradients(), weight)

    def gradient_norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d, the same on every worker."""
        squared = _squared_norm([_gradient(shard) for shard in self._shards])
        self._collective.all_reduce(squared)
        return (squared + _squared_norm([_gradient(scalar) for scalar in self._scalars])).sqrt()

    def clip_gradients(self, norm: Tensor, max_norm: float) -> None:
        """Scale all gradients by the factor that reduces a norm to at most `max_norm`."""
        torch._foreach_mul_(self._gradients(), clip_scale(norm, max_norm))

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Unshard the parameters for the body."""
        self._unshard()
        try:
            yield
        finally:
            for unit in self._units:
                unit.reshard()

    def local_shard(self, tensor: Tensor) -> LocalShard | None:
        """Return this worker's rows of a sharded tensor; None when it is replicated."""
        if not isinstance(tensor, DTensor):
            return None
        local, rows = tensor.to_local(), tensor.shape[0]
        first = min(-(-rows // self._collective.size) * self._collective.rank, rows)
        last = min(first + -(-rows // self._collective.size), rows)
        if tensor.placements != (Shard(0),) or local.shape != (last - first, *tensor.shape[1:]):
            raise RuntimeError(f"a tensor is sharded otherwise than by rows: {tensor.placements}, {local.shape}")
        return LocalShard(local.contiguous().view(-1), first * math.prod(tensor.shape[1:]))

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather one tensor after the other into worker 0's host memory; the other workers return nothing."""
        gathered = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self._collective.rank == 0:
                gathered[name] = full.to("cpu")
        return gathered

    def distribute(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this worker's shards of tensors that are unsharded and equal on all workers."""
        return {name: self._distribute(name.rpartition("/")[2], tensor) for name, tensor in tensors.items()}

    def _distribute(self, parameter_name: str, tensor: Tensor) -> Tensor:
        parameter = self._parameters.get(parameter_name)
        if not isinstance(parameter, DTensor) or parameter.shape != tensor.shape:
            return tensor
        on_device = tensor.to(parameter.device)
        return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def _unshard(self) -> None:
        for handle in [unit.unshard(async_op=True) for unit in self._units]:
            if handle is not None:
                handle.wait()

    def _gradients(self) -> list[Tensor]:
        return [_gradient(parameter) for parameter in self._shards + self._scalars]


class _Root(nn.Module):
    """Wraps the model as the FSDP root of its units. A backward pass through it alone reduces their gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, zero: Tensor) -> Tensor:
        return zero.clone()


def _shard(
    model: nn.Module, units: Sequence[nn.Module], workers: int, device: torch.device
) -> tuple[_Root, list[FSDPModule]]:
    mesh = init_device_mesh(device.type, (workers,))
    scalars = {parameter for parameter in model.parameters() if parameter.ndim == 0}
    root = _Root(model)
    for module in (*units, root):
        fully_shard(module, mesh=mesh, reshard_after_forward=False, ignored_params=scalars)
    sharded: list[FSDPModule] = [module for module in root.modules() if isinstance(module, FSDPModule)]
    root(torch.zeros(()))  # the first module to be called becomes the root
    for unit in sharded:
        unit.reshard()
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo supports no other
    _reduce_in_backward(sharded, False)
    return root, sharded


def _reduce_in_backward(units: Sequence[FSDPModule], enabled: bool) -> None:
    for unit in units:
        unit.set_requires_gradient_sync(enabled, recurse=False)
        unit.set_is_last_backward(enabled)
        unit.set_reshard_after_backward(enabled, recurse=False)


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("a trained parameter has no gradient: call finish_backward() first, which gives one to all")
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor).square() for tensor in tensors]).sum()
