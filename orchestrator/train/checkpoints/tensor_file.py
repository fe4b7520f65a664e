"""Files of pieces of tensors: safetensors files, whose metadata says where the pieces belong.

A file of whole tensors is an ordinary safetensors file. A piece of a tensor is stored with one dimension, and the entry
`pieces` of the file's metadata has the place of its first element and the shape of the whole tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orchestrator.train.checkpoints.errors import CheckpointError, DamagedError
from orchestrator.train.checkpoints.pieces import Piece

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
