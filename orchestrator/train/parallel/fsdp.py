"""Every worker holds a shard of the parameters, the teacher, the gradients and the optimiser's state (FSDP2).

Parameters are gathered once for all passes of a step and gradients are summed once after them, unit by unit in a fixed
order. Nothing is sent during a pass (`reshard_after_forward=False`, no gradient sync in the workload's backward):
workers may run different numbers of micro-batches, a micro-batch of few samples may leave parts of the model out, and
adversarial passes visit a layer many times, while messages inside passes would have to match on all workers.

So during the passes a worker has room for all values, student's and teacher's, and the student's gradients; between
steps and while the optimiser runs, all of it and the optimiser's moments are divided by the number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import Shard as RowShards

from orchestrator.train.parallel.base import Collective, Shard
from orchestrator.train.parallel.data_parallel import clip_scale


class Sharded:
    """See `Parallel`. Parameters without dimensions, such as a temperature, stay whole.

    Args:
        model: built already and equal on all workers; sharded in place.
        units: modules whose parameters travel as one message; what they leave is a unit as well.
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

    def begin(self) -> None:
        """Clear the gradients and gather the parameters."""
        for parameter in self._shards + self._scalars:
            parameter.grad = None
        self._gather()

    def backward(self, loss: Tensor, retain_graph: bool, last: bool) -> None:
        """Accumulate the gradient of a loss; nothing is sent."""
        loss.backward(retain_graph=retain_graph)

    def finish(self) -> None:
        """Sum the gradients over all workers; each keeps its shards of them and of the parameters."""
        for parameter in self._model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _sum_in_backward(self._units, True)
        self._root(torch.zeros((), requires_grad=True)).backward()
        _sum_in_backward(self._units, False)
        for scalar in self._scalars:
            self._collective.sum(_gradient(scalar))

    def average(self, weight: float) -> None:
        """Divide the gradients by a weight."""
        if weight != 1.0:
            torch._foreach_div_(self._gradients(), weight)

    def norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d, the same on every worker."""
        squared = _squared_norm([_gradient(shard) for shard in self._shards])
        self._collective.sum(squared)
        return (squared + _squared_norm([_gradient(scalar) for scalar in self._scalars])).sqrt()

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients by what brings a norm down to at most `largest`."""
        torch._foreach_mul_(self._gradients(), clip_scale(norm, largest))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Gather the parameters for a while."""
        self._gather()
        try:
            yield
        finally:
            for unit in self._units:
                unit.reshard()

    def shard(self, tensor: Tensor) -> Shard | None:
        """Return this worker's rows of a divided tensor; None when every worker holds it all."""
        if not isinstance(tensor, DTensor):
            return None
        local, rows = tensor.to_local(), tensor.shape[0]
        first = min(-(-rows // self._collective.size) * self._collective.rank, rows)
        last = min(first + -(-rows // self._collective.size), rows)
        if tensor.placements != (RowShards(0),) or local.shape != (last - first, *tensor.shape[1:]):
            raise RuntimeError(f"a tensor is divided otherwise than by rows: {tensor.placements}, {local.shape}")
        return Shard(local.contiguous().view(-1), first * math.prod(tensor.shape[1:]))

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put shards together, one tensor after the other, into worker 0's main memory; others return nothing."""
        gathered = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self._collective.rank == 0:
                gathered[name] = full.to("cpu")
        return gathered

    def placed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this worker's shards of tensors that are whole and equal on all workers."""
        return {name: self._placed(name.rpartition("/")[2], tensor) for name, tensor in tensors.items()}

    def _placed(self, parameter_name: str, tensor: Tensor) -> Tensor:
        parameter = self._parameters.get(parameter_name)
        if not isinstance(parameter, DTensor) or parameter.shape != tensor.shape:
            return tensor
        on_device = tensor.to(parameter.device)
        return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def _gather(self) -> None:
        for handle in [unit.unshard(async_op=True) for unit in self._units]:
            if handle is not None:
                handle.wait()

    def _gradients(self) -> list[Tensor]:
        return [_gradient(parameter) for parameter in self._shards + self._scalars]


class _Root(nn.Module):
    """Stands above the model as the root of its units. A backward pass through it alone sums their gradients."""

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
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no other
    _sum_in_backward(sharded, False)
    return root, sharded


def _sum_in_backward(units: Sequence[FSDPModule], wanted: bool) -> None:
    for unit in units:
        unit.set_requires_gradient_sync(wanted, recurse=False)
        unit.set_is_last_backward(wanted)
        unit.set_reshard_after_backward(wanted, recurse=False)


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    if gradient is None:
        raise RuntimeError("a trained parameter has no gradient: finish() must come first, it gives one to all")
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor).square() for tensor in tensors]).sum()
