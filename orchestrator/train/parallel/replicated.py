"""Every worker holds the whole model; gradients are summed during the last backward pass of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from orchestrator.train.collective import Collective
from orchestrator.train.gradients import BUCKET_BYTES, GradientBuffer
from orchestrator.train.parallel.overlap import OverlappedSum
from orchestrator.train.parallel.protocol import Shard


class Replicated:
    """See `Parallel`.

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

    def begin(self) -> None:
        """Clear the gradients."""
        self._gradients.clear()

    def backward(self, loss: Tensor, retain_graph: bool, last: bool) -> None:
        """Accumulate the gradient of a loss; the last call sends what it completes."""
        if self._sum.started:
            raise RuntimeError("backward was called after a call with final=True; only the very last one may be final")
        if not last:
            loss.backward(retain_graph=retain_graph)
            return
        with self._sum.sending():
            loss.backward(retain_graph=retain_graph)

    def finish(self) -> None:
        """Send the gradients that are left."""
        self._sum.finish()

    def average(self, weight: float) -> None:
        """Wait for the sums over all workers and divide them by a weight."""
        self._sum.wait()
        self._gradients.divide(weight)

    def norm(self) -> Tensor:
        """Return the Euclidean norm of all gradients together, 0-d."""
        return self._gradients.norm()

    def clip(self, norm: Tensor, largest: float) -> None:
        """Scale all gradients by what brings a norm down to at most `largest`."""
        self._gradients.clip(norm, largest)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Do nothing: the parameters are whole."""
        yield

    def shard(self, tensor: Tensor) -> Shard | None:
        """Return None: every worker holds everything."""
        return None

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors as they are."""
        return dict(tensors)

    def placed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors as they are."""
        return dict(tensors)
