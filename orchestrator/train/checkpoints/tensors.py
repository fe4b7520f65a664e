"""Files of pieces of tensors: safetensors files, whose metadata says where the pieces belong.

A file of whole tensors is an ordinary safetensors file. A piece of a tensor is stored with one dimension, and the entry
`pieces` of the file's metadata has the place of its first element and the shape of the whole tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from orchestrator.train.checkpoints.manifest import CheckpointError, DamagedError
from orchestrator.train.parallel.base import Parallel

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""Element types by the names that the file format gives them."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT_BYTES = 64
"""The elements begin at a multiple of this."""


def in_file_order(pieces: Iterable[Piece]) -> list[Piece]:
    """Return pieces as they follow each other in a file: the widest elements first, so that all are aligned."""
    return sorted(pieces, key=lambda piece: (-piece.values.element_size(), piece.name))


def file_header(pieces: Sequence[Piece]) -> bytes:
    """Return what comes before the elements of some pieces, which follow without gaps, in the order given.

    Raises:
        CheckpointError: a tensor's element type has no name in the file format.
    """
    places = {piece.name: [piece.start, piece.shape] for piece in pieces if not piece.whole}
    metadata = {"format": "pt"} | ({"pieces": json.dumps(places)} if places else {})
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for piece in pieces:
        shape = piece.shape if piece.whole else piece.values.shape
        offsets = (offset, offset + piece.size_bytes)
        entries[piece.name] = {"dtype": _dtype_name(piece), "shape": list(shape), "data_offsets": offsets}
        offset += piece.size_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    length = -(-(8 + len(text)) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES - 8
    return length.to_bytes(8, "little") + text.ljust(length)


def read_pieces(content: memoryview, uri: str) -> list[Piece]:
    """Return the pieces in a file's content; their elements stay where they are.

    Args:
        content: the whole file, in memory that may be written to.
        uri: the file, for messages.

    Raises:
        DamagedError: it is no such file.
    """
    begin = 8 + int.from_bytes(content[:8], "little")
    try:
        entries: dict[str, Any] = json.loads(bytes(content[8:begin]))
        places = json.loads(entries.pop("__metadata__", {}).get("pieces", "{}"))
        return [_piece(content, begin, name, about, places.get(name)) for name, about in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{uri}: is damaged (it holds no tensors: {error}).") from error


def _piece(content: memoryview, begin: int, name: str, about: Mapping[str, Any], place: list[Any] | None) -> Piece:
    dtype, (start, stop), shape = DTYPES[about["dtype"]], about["data_offsets"], tuple(about["shape"])
    count = math.prod(shape)
    if stop - start != count * dtype.itemsize:
        raise ValueError(f"{name} has {stop - start} bytes and the shape {shape}")
    values = _elements(content, dtype, count, begin + start)
    if place is None:
        return Piece(name, values, 0, shape)
    return Piece(name, values, place[0], tuple(place[1]))


def _elements(content: memoryview, dtype: torch.dtype, count: int, offset: int) -> Tensor:
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=offset)


def _dtype_name(piece: Piece) -> str:
    name = NAMES.get(piece.values.dtype)
    if name is None:
        raise CheckpointError(
            f"{piece.name}: tensors of {piece.values.dtype} cannot be saved; use one of {', '.join(map(str, NAMES))}."
        )
    return name


# Who writes what: a worker's pieces of the tensors of a checkpoint.
#
# A tensor is a run of elements in row-major order, and a piece is a stretch of that run. Of a tensor that is divided
# among the workers, each writes its own shard. Tensors that all workers hold are laid end to end and cut into equal
# stretches, one for each worker.


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


# Whole tensors from the pieces that the workers wrote.


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


# Copies of what is to be written, taken while training waits; writing them is no hurry.


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
