"""Data parallelism: every worker holds the whole model; gradients are summed during a step's last backward pass.

Gradients lie in one flat buffer and are summed in a few large buckets while the last backward pass is still running.
The same idea as DistributedDataParallel's buckets and `no_sync` (Li et al. 2020, "PyTorch Distributed"), for workers
that make different numbers of passes, or none at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orchestrator.train.parallel.base import Collective, LocalShard, Work, clip_scale

BUCKET_BYTES = 25 * 1024 * 1024
"""Size from which on a bucket is full; the default of torch's DistributedDataParallel as well."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Gradients that are summed as one message.

    Args:
        gradients: a 1-d view of the buffer.
        parameters: whose gradients these are.
    """

    gradients: Tensor
    parameters: tuple[nn.Parameter, ...]


class GradientBuffer:
    """The gradients of all trained parameters as views into one tensor per dtype.

    Accumulation needs no copy, clearing is one fill, and every worker sends the same messages whichever of its
    parameters took part in a step.

    Args:
        parameters: the trained parameters in the order of the model, the same on every worker. They are laid out in
            reverse, so that neighbours in the buffer get their gradients at about the same time.
        bucket_bytes: size from which on a bucket is full.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], bucket_bytes: int = BUCKET_BYTES) -> None:
        self._flat: list[Tensor] = []
        self.buckets: list[Bucket] = []
        for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
            own = [parameter for parameter in reversed(parameters) if parameter.dtype == dtype]
            self._flat.append(_as_views(own))
            self.buckets += _buckets(self._flat[-1], own, bucket_bytes)

    def clear(self) -> None:
        """Set all gradients to zero."""
        for flat in self._flat:
            flat.zero_()

    def divide(self, weight: float) -> None:
        """Divide all gradients by a weight."""
        if weight != 1.0:
            for flat in self._flat:
                flat.div_(weight)

    def norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d."""
        norms = torch.stack([torch.linalg.vector_norm(flat) for flat in self._flat])
        total: Tensor = torch.linalg.vector_norm(norms)
        return total

    def clip(self, norm: Tensor, max_norm: float) -> None:
        """Scale all gradients by the factor that reduces a norm to at most `max_norm`."""
        for flat in self._flat:
            flat.mul_(clip_scale(norm, max_norm).to(flat.dtype))


def _as_views(parameters: Sequence[nn.Parameter]) -> Tensor:
    flat = torch.zeros(
        sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype, device=parameters[0].device
    )
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat


def _buckets(flat: Tensor, parameters: Sequence[nn.Parameter], bucket_bytes: int) -> Iterator[Bucket]:
    start, members = 0, list[nn.Parameter]()
    for parameter in parameters:
        members.append(parameter)
        elements = sum(member.numel() for member in members)
        if elements * flat.element_size() >= bucket_bytes or parameter is parameters[-1]:
            yield Bucket(flat[start : start + elements], tuple(members))
            start, members = start + elements, []


class Replicated:
    """Data parallelism; implements `Parallel`.

    Args:
        parameters: the trained ones, in the order of the model.
        collective: the other workers.
        bucket_bytes: size from which on gradients are sent together.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], collective: Collective, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._gradients = GradientBuffer(parameters, bucket_bytes)
        self._sum = OverlappedSum(self._gradients.buckets, collective)

    def begin_step(self) -> None:
        """Clear the gradients."""
        self._gradients.clear()

    def backward(self, loss: Tensor, retain_graph: bool, last: bool) -> None:
        """Accumulate the gradient of a loss; the last call sends the buckets that it completes."""
        if self._sum.started:
            raise RuntimeError("backward was called after a call with final=True; only the very last one may be final")
        if not last:
            loss.backward(retain_graph=retain_graph)
            return
        with self._sum.sending():
            loss.backward(retain_graph=retain_graph)

    def finish_backward(self) -> None:
        """Send the remaining buckets."""
        self._sum.finish()

    def average_gradients(self, weight: float) -> None:
        """Wait for the sums over all workers and divide them by a weight."""
        self._sum.wait()
        self._gradients.divide(weight)

    def gradient_norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d."""
        return self._gradients.norm()

    def clip_gradients(self, norm: Tensor, max_norm: float) -> None:
        """Scale all gradients by the factor that reduces a norm to at most `max_norm`."""
        self._gradients.clip(norm, max_norm)

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Do nothing: the parameters are replicated."""
        yield

    def local_shard(self, tensor: Tensor) -> LocalShard | None:
        """Return None: all tensors are replicated."""
        return None

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors as they are."""
        return dict(tensors)

    def distribute(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors as they are."""
        return dict(tensors)


class OverlappedSum:
    """Sends each bucket once it and all buckets before it are complete, and the rest in `finish`.

    All workers send the same buckets in the same order, whichever parameters their passes used. After the first step
    that order is the one in which worker 0 completed them.

    Args:
        buckets: what to sum, the same on every worker.
        collective: the other workers.
    """

    def __init__(self, buckets: Sequence[Bucket], collective: Collective) -> None:
        self._buckets = buckets
        self._collective = collective
        self._order = list(range(len(buckets)))
        self._first_step = True
        self._sending = False
        self._missing: list[set[nn.Parameter]] = []
        self._completed: list[int] = []
        self._pending: list[Work] = []
        if collective.size > 1:
            self._watch()

    @property
    def started(self) -> bool:
        """Whether buckets of this step may have been sent."""
        return bool(self._missing)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send buckets as the backward pass inside completes them; no gradient may change afterwards."""
        self._missing = [set(bucket.parameters) for bucket in self._buckets]
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    def finish(self) -> None:
        """Send the remaining buckets."""
        while len(self._pending) < len(self._buckets):
            self._send_next()
        if self._first_step and self._collective.size > 1:
            self._agree_on_order()

    def wait(self) -> None:
        """Wait for all sums and reset for the next step."""
        for message in self._pending:
            message.wait()
        self._missing, self._completed, self._pending = [], [], []

    def _watch(self) -> None:
        for index, bucket in enumerate(self._buckets):
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(lambda own, index=index: self._accumulated(index, own))

    def _accumulated(self, index: int, parameter: nn.Parameter) -> None:
        if not self._sending:
            return
        if index in self._order[: len(self._pending)]:
            raise RuntimeError("a gradient changed after it was sent: the backward pass reached a parameter twice")
        self._missing[index].discard(parameter)
        if not self._missing[index]:
            self._completed.append(index)
        while len(self._pending) < len(self._order) and not self._missing[self._order[len(self._pending)]]:
            self._send_next()

    def _send_next(self) -> None:
        bucket = self._buckets[self._order[len(self._pending)]]
        self._pending.append(self._collective.all_reduce_async(bucket.gradients))

    def _agree_on_order(self) -> None:
        self._first_step = False
        order = self._completed + [index for index in self._order if index not in self._completed]
        message = torch.tensor(order) * (self._collective.rank == 0)
        self._collective.all_reduce(message)
        self._order = message.tolist()
