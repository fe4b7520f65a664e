"""Copies of what is to be written, taken while training waits; writing them is no hurry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.train.checkpoints.pieces import Piece
from orchestrator.train.checkpoints.tensor_file import file_header, in_file_order


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A file of tensors that is ready to be written: its header, then its elements."""

    header: bytes
    elements: memoryview


class HostBuffers:
    """Main memory for staged files, laid out as the files are; it is used again by every save.

    Tensors of a GPU are copied into pinned memory, which is several times faster.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def stage(self, content: str, pieces: Sequence[Piece]) -> StagedFile:
        """Copy pieces; when this returns, the tensors may change.

        Args:
            content: what the file is a part of; the buffer of the file staged before under this name is used again.
            pieces: what the file is made of.

        Raises:
            CheckpointError: a tensor's element type cannot be saved.
        """
        pieces = in_file_order(pieces)
        header = file_header(pieces)
        devices = {piece.values.device for piece in pieces if piece.values.is_cuda}
        buffer = self._buffer(content, sum(piece.size_bytes for piece in pieces), pinned=bool(devices))
        offset = 0
        for piece in pieces:
            target = buffer[offset : offset + piece.size_bytes].view(piece.values.dtype)
            target.copy_(piece.values, non_blocking=True)
            offset += piece.size_bytes
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return StagedFile(header, buffer.numpy().data)

    def _buffer(self, content: str, size_bytes: int, pinned: bool) -> Tensor:
        buffer = self._buffers.get(content)
        if buffer is None or buffer.numel() != size_bytes or buffer.is_pinned() != pinned:
            self._buffers.pop(content, None)
            buffer = self._buffers[content] = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
        return buffer
