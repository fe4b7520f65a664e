"""Who writes what: a worker's pieces of the tensors of a checkpoint.

A tensor is a run of elements in row-major order, and a piece is a stretch of that run. Of a tensor that is divided
among the workers, each writes its own shard. Tensors that all workers hold are laid end to end and cut into equal
stretches, one for each worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from orchestrator.train.parallel.protocol import Parallel


@dataclass(frozen=True, slots=True)
class Piece:
    """Some elements of a tensor that follow each other.

    Args:
        name: the tensor's name.
        values: the elements, [elements].
        start: place of the first one in the tensor.
        shape: of the whole tensor.
    """

    name: str
    values: Tensor
    start: int
    shape: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether this is all of the tensor."""
        return self.values.numel() == math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Size of the elements."""
        return self.values.numel() * self.values.element_size()


def own_pieces(tensors: Mapping[str, Tensor], parallel: Parallel, rank: int, workers: int) -> list[Piece]:
    """Return the pieces that a worker writes; those of all workers together are all of the tensors, each part once.

    Args:
        tensors: the tensors as this worker holds them, with the same names on all workers.
        parallel: how the workers share them.
        rank: this worker's number.
        workers: how many there are.
    """
    shards = {name: parallel.shard(tensor.detach()) for name, tensor in tensors.items()}
    held_by_all = {name: tensor.detach() for name, tensor in tensors.items() if shards[name] is None}
    own = [
        Piece(name, shard.values, shard.start, tuple(tensors[name].shape))
        for name, shard in shards.items()
        if shard is not None and shard.values.numel()
    ]
    return own + _equal_stretch(held_by_all, rank, workers)


def _equal_stretch(tensors: Mapping[str, Tensor], rank: int, workers: int) -> list[Piece]:
    total = sum(tensor.nbytes for tensor in tensors.values())
    first, last = total * rank // workers, total * (rank + 1) // workers
    pieces, offset = [], 0
    for name, tensor in tensors.items():
        start, stop = (_elements_before(bound - offset, tensor) for bound in (first, last))
        offset += tensor.nbytes
        if stop > start or (rank == 0 and tensor.numel() == 0):
            pieces.append(Piece(name, tensor.contiguous().view(-1)[start:stop], start, tuple(tensor.shape)))
    return pieces


def _elements_before(bound_bytes: int, tensor: Tensor) -> int:
    """Return how many of a tensor's elements begin before a bound."""
    return min(max(-(-bound_bytes // tensor.element_size()), 0), tensor.numel())
