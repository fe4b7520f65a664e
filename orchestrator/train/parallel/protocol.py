"""What a training step asks of the way in which workers share the model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

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
