"""Whole tensors from the pieces that the workers wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from orchestrator.train.checkpoints.errors import DamagedError
from orchestrator.train.checkpoints.pieces import Piece


class Assembly:
    """Puts tensors together, file by file, so that a file's memory can go before the next one is read.

    Args:
        uri: the checkpoint, for messages.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._tensors: dict[str, Tensor] = {}
        self._stretches: dict[str, list[tuple[int, int]]] = {}

    def add(self, pieces: Sequence[Piece], lasting: bool) -> None:
        """Take in the pieces of a file.

        Args:
            pieces: what is in the file.
            lasting: whether whole tensors may stay in the file's memory, because it costs nothing; they also do when
                the file has nothing but whole tensors.

        Raises:
            DamagedError: a piece does not fit the others of its tensor.
        """
        lasting = lasting or all(piece.whole for piece in pieces)
        for piece in pieces:
            if piece.whole and piece.name not in self._tensors:
                self._tensors[piece.name] = (piece.values if lasting else piece.values.clone()).view(piece.shape)
            else:
                self._copy(piece)
            self._stretches.setdefault(piece.name, []).append((piece.start, piece.start + piece.values.numel()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name.

        Raises:
            DamagedError: a part of a tensor is missing, or there twice.
        """
        for name, tensor in self._tensors.items():
            stretches = sorted(self._stretches[name])
            bounds = [0, *(stop for _, stop in stretches)]
            if [start for start, _ in stretches] != bounds[:-1] or bounds[-1] != tensor.numel():
                raise DamagedError(f"{self._uri}: is damaged (the pieces of {name} are not the whole tensor).")
        return dict(sorted(self._tensors.items()))

    def _copy(self, piece: Piece) -> None:
        tensor = self._tensors.get(piece.name)
        if tensor is None:
            tensor = self._tensors[piece.name] = torch.empty(piece.shape, dtype=piece.values.dtype)
        stop = piece.start + piece.values.numel()
        if tensor.shape != piece.shape or tensor.dtype != piece.values.dtype or stop > math.prod(piece.shape):
            raise DamagedError(f"{self._uri}: is damaged (a piece of {piece.name} does not fit the others).")
        tensor.view(-1)[piece.start : stop] = piece.values
