"""Sharded tensors: which shard a worker writes, files of shards, and whole tensors from the shards of all workers.

A shard is a range of a tensor's elements in row-major order. Of a tensor that is divided among the workers, each writes
its own shard. Tensors that all workers hold are laid end to end and cut into equal ranges, one for each worker.

Shards are stored in safetensors files. A file of whole tensors is an ordinary safetensors file. A shard that is not a
whole tensor is stored with one dimension, and the entry `pieces` of the file's metadata holds the offset of its first
element and the shape of the whole tensor.
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
"""Element types by their names in safetensors files."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT_BYTES = 64
"""The elements begin at a multiple of this."""


@dataclass(frozen=True, slots=True)
class TensorShard:
    """Consecutive elements of a tensor.

    Args:
        name: the tensor's name.
        values: the elements, [elements].
        start: offset of the first one in the tensor, in elements.
        shape: of the whole tensor.
    """

    name: str
    values: Tensor
    start: int
    shape: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether this is the whole tensor."""
        return self.values.numel() == math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Size of the elements."""
        return self.values.numel() * self.values.element_size()


def local_shards(tensors: Mapping[str, Tensor], parallel: Parallel, rank: int, workers: int) -> list[TensorShard]:
    """Return the shards that a worker writes; those of all workers cover every tensor exactly once.

    Args:
        tensors: the tensors as this worker holds them, with the same names on all workers.
        parallel: how the workers share them.
        rank: this worker's number.
        workers: how many there are.
    """
    shards = {name: parallel.local_shard(tensor.detach()) for name, tensor in tensors.items()}
    held_by_all = {name: tensor.detach() for name, tensor in tensors.items() if shards[name] is None}
    own = [
        TensorShard(name, shard.values, shard.start, tuple(tensors[name].shape))
        for name, shard in shards.items()
        if shard is not None and shard.values.numel()
    ]
    return own + _equal_range(held_by_all, rank, workers)


def _equal_range(tensors: Mapping[str, Tensor], rank: int, workers: int) -> list[TensorShard]:
    total = sum(tensor.nbytes for tensor in tensors.values())
    first, last = total * rank // workers, total * (rank + 1) // workers
    shards, offset = [], 0
    for name, tensor in tensors.items():
        start, stop = (_elements_before(bound - offset, tensor) for bound in (first, last))
        offset += tensor.nbytes
        if stop > start or (rank == 0 and tensor.numel() == 0):
            shards.append(TensorShard(name, tensor.contiguous().view(-1)[start:stop], start, tuple(tensor.shape)))
    return shards


def _elements_before(bound_bytes: int, tensor: Tensor) -> int:
    """Return how many of a tensor's elements begin before a bound in bytes."""
    return min(max(-(-bound_bytes // tensor.element_size()), 0), tensor.numel())


def check_finite(tensors: Mapping[str, Tensor], place: str, fix: str) -> None:
    """Refuse tensors with a value that is not-a-number or infinite, from which no training recovers.

    Args:
        tensors: by name.
        place: where they are, for the message.
        fix: what to do about it.

    Raises:
        CheckpointError: the first such tensor is named.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{place}: {name} holds not-a-number or infinite values; {fix}.")


def in_file_order(shards: Iterable[TensorShard]) -> list[TensorShard]:
    """Return shards in the order of a file: the widest elements first, so that all are aligned."""
    return sorted(shards, key=lambda shard: (-shard.values.element_size(), shard.name))


def file_header(shards: Sequence[TensorShard]) -> bytes:
    """Return the header of a file of shards, whose elements follow it without gaps, in the order given.

    Raises:
        CheckpointError: a tensor's element type has no name in the file format.
    """
    positions = {shard.name: [shard.start, shard.shape] for shard in shards if not shard.whole}
    metadata = {"format": "pt"} | ({"pieces": json.dumps(positions)} if positions else {})
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for shard in shards:
        shape = shard.shape if shard.whole else shard.values.shape
        offsets = (offset, offset + shard.size_bytes)
        entries[shard.name] = {"dtype": _dtype_name(shard), "shape": list(shape), "data_offsets": offsets}
        offset += shard.size_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    length = -(-(8 + len(text)) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES - 8
    return length.to_bytes(8, "little") + text.ljust(length)


def read_shards(content: memoryview, uri: str) -> list[TensorShard]:
    """Return the shards in a file's content; their elements are not copied.

    Args:
        content: the whole file, in writable memory.
        uri: the file, for messages.

    Raises:
        DamagedError: it is not such a file.
    """
    begin = 8 + int.from_bytes(content[:8], "little")
    try:
        entries: dict[str, Any] = json.loads(bytes(content[8:begin]))
        positions = json.loads(entries.pop("__metadata__", {}).get("pieces", "{}"))
        return [_shard(content, begin, name, entry, positions.get(name)) for name, entry in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{uri}: is damaged (it holds no tensors: {error}).") from error


def _shard(
    content: memoryview, begin: int, name: str, entry: Mapping[str, Any], position: list[Any] | None
) -> TensorShard:
    dtype, (start, stop), shape = DTYPES[entry["dtype"]], entry["data_offsets"], tuple(entry["shape"])
    count = math.prod(shape)
    if stop - start != count * dtype.itemsize:
        raise ValueError(f"{name} has {stop - start} bytes and the shape {shape}")
    values = _elements(content, dtype, count, begin + start)
    if position is None:
        return TensorShard(name, values, 0, shape)
    return TensorShard(name, values, position[0], tuple(position[1]))


def _elements(content: memoryview, dtype: torch.dtype, count: int, offset: int) -> Tensor:
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype, count=count, offset=offset)


def _dtype_name(shard: TensorShard) -> str:
    name = NAMES.get(shard.values.dtype)
    if name is None:
        raise CheckpointError(
            f"{shard.name}: tensors of {shard.values.dtype} cannot be saved; use one of {', '.join(map(str, NAMES))}."
        )
    return name


class TensorAssembler:
    """Assembles whole tensors from shards, file by file, so that a file's memory is freed before the next one is read.

    Args:
        uri: the checkpoint, for messages.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._tensors: dict[str, Tensor] = {}
        self._ranges: dict[str, list[tuple[int, int]]] = {}

    def add(self, shards: Sequence[TensorShard], mapped: bool) -> None:
        """Add the shards of a file.

        Args:
            shards: all shards in the file.
            mapped: whether the file is memory-mapped, so that whole tensors need no copy; they need none either when
                the file holds only whole tensors.

        Raises:
            DamagedError: a shard does not fit the others of its tensor.
        """
        in_place = mapped or all(shard.whole for shard in shards)
        for shard in shards:
            if shard.whole and shard.name not in self._tensors:
                self._tensors[shard.name] = (shard.values if in_place else shard.values.clone()).view(shard.shape)
            else:
                self._copy(shard)
            self._ranges.setdefault(shard.name, []).append((shard.start, shard.start + shard.values.numel()))

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name.

        Raises:
            DamagedError: elements of a tensor are missing, or are there twice.
        """
        for name, tensor in self._tensors.items():
            ranges = sorted(self._ranges[name])
            bounds = [0, *(stop for _, stop in ranges)]
            if [start for start, _ in ranges] != bounds[:-1] or bounds[-1] != tensor.numel():
                raise DamagedError(f"{self._uri}: is damaged (the shards of {name} are not the whole tensor).")
        return dict(sorted(self._tensors.items()))

    def _copy(self, shard: TensorShard) -> None:
        tensor = self._tensors.get(shard.name)
        if tensor is None:
            tensor = self._tensors[shard.name] = torch.empty(shard.shape, dtype=shard.values.dtype)
        stop = shard.start + shard.values.numel()
        if tensor.shape != shard.shape or tensor.dtype != shard.values.dtype or stop > math.prod(shard.shape):
            raise DamagedError(f"{self._uri}: is damaged (a shard of {shard.name} does not fit the others).")
        tensor.view(-1)[shard.start : stop] = shard.values


class HostBuffers:
    """Host memory for copies of shards, laid out as the files are and reused by every save.

    Tensors of a GPU are copied into pinned memory, which is several times faster.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def stage(self, content: str, shards: Sequence[TensorShard]) -> tuple[bytes, memoryview]:
        """Copy shards and return the header and the elements of their file; afterwards the tensors may change.

        Args:
            content: what the file is a part of; the buffer of an earlier file of this content is reused.
            shards: the shards of the file.

        Raises:
            CheckpointError: a tensor's element type cannot be saved.
        """
        shards = in_file_order(shards)
        header = file_header(shards)
        devices = {shard.values.device for shard in shards if shard.values.is_cuda}
        buffer = self._buffer(content, sum(shard.size_bytes for shard in shards), pinned=bool(devices))
        offset = 0
        for shard in shards:
            target = buffer[offset : offset + shard.size_bytes].view(shard.values.dtype)
            target.copy_(shard.values, non_blocking=True)
            offset += shard.size_bytes
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return header, buffer.numpy().data

    def _buffer(self, content: str, size_bytes: int, pinned: bool) -> Tensor:
        buffer = self._buffers.get(content)
        if buffer is None or buffer.numel() != size_bytes or buffer.is_pinned() != pinned:
            self._buffers.pop(content, None)
            buffer = self._buffers[content] = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned)
        return buffer
