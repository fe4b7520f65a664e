"""Micro-batches on their way from the readers to a worker: a table with a row for each.

A row holds a micro-batch as read, as decoded, or nothing. Every feature of the decoded ones has a column of its own,
whose cells are the arrays' memory: nothing is copied but into Ray's object store, once.

    about       what is known of a decoded micro-batch besides its features, as JSON
    raw         an encoded `RawBatch`
    NAME        the feature NAME of a decoded micro-batch: its array's bytes
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import MicroBatch, Skipped
from orchestrator.stream.raw_batch import RawBatch

ABOUT, RAW, FEATURE = "about", "raw", "feature/"
CELL = pa.large_binary()

Row = MicroBatch | RawBatch | None


@dataclass(frozen=True, slots=True)
class Parcel:
    """A micro-batch as it arrived, not yet opened.

    Args:
        about: JSON; None for one that is not decoded yet.
        cells: the features' bytes by name, or the encoded `RawBatch` by the name `raw`.
    """

    about: str | None
    cells: Mapping[str, pa.Buffer]

    def open(self, decoder: Decoder) -> MicroBatch:
        """Return the micro-batch, decoded if that is still to be done; its arrays are its own and writable."""
        if self.about is None:
            return decoder(RawBatch.decode(self.cells[RAW]))
        about = json.loads(self.about)
        features = {
            name: np.frombuffer(self.cells[FEATURE + name], dtype=dtype).reshape(shape).copy()
            for name, (dtype, shape) in about["features"].items()
        }
        skipped = tuple(Skipped(**skip) for skip in about["skipped"])
        return MicroBatch(about["number"], tuple(about["keys"]), features, skipped, about["fingerprint"])


def pack(rows: Sequence[Row]) -> pa.Table:
    """Return a block with a row for each micro-batch, and an empty one for each None."""
    decoded = [row if isinstance(row, MicroBatch) else None for row in rows]
    names = sorted({name for row in decoded if row is not None for name in row.features})
    columns = {
        ABOUT: pa.array([row and _about(row) for row in decoded], pa.string()),
        RAW: _column([row.encode() if isinstance(row, RawBatch) else None for row in rows]),
        **{FEATURE + name: _column([row and _memory(row.features.get(name)) for row in decoded]) for name in names},
    }
    return pa.table(columns)


def unpack(block: pa.Table) -> Iterator[Parcel]:
    """Yield the micro-batches of a block in order; they share its memory."""
    names = [name for name in block.column_names if name != ABOUT]
    columns = [_cells(block.column(name)) for name in names]
    for about, *cells in zip(block.column(ABOUT).to_pylist(), *columns, strict=True):
        found = {name: cell for name, cell in zip(names, cells, strict=True) if cell is not None}
        if about is not None or RAW in found:
            yield Parcel(about, found)


def _about(batch: MicroBatch) -> str:
    about: dict[str, Any] = {
        "number": batch.number,
        "keys": batch.keys,
        "skipped": [asdict(skip) for skip in batch.skipped],
        "fingerprint": batch.fingerprint,
        "features": {name: (array.dtype.str, array.shape) for name, array in batch.features.items()},
    }
    return json.dumps(about)


def _memory(array: NDArray[np.generic] | None) -> pa.Buffer | None:
    return None if array is None else pa.py_buffer(np.ascontiguousarray(array))


def _column(cells: Sequence[pa.Buffer | None]) -> pa.ChunkedArray:
    """Return a column with a chunk for each cell, around the cells' own memory."""
    return pa.chunked_array([_cell(cell) for cell in cells], CELL)


def _cell(content: pa.Buffer | None) -> pa.LargeBinaryArray:
    if content is None:
        return pa.nulls(1, CELL)
    ends = pa.py_buffer(np.array([0, content.size], dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(CELL, 1, [None, ends, content])


def _cells(column: pa.ChunkedArray) -> Iterator[pa.Buffer | None]:
    """Yield the cells of a column; Arrow's own way to a single cell copies it."""
    for chunk in column.chunks:
        _, ends, content = chunk.buffers()
        for row, valid in enumerate(chunk.is_valid().to_pylist(), chunk.offset):
            start, stop = np.frombuffer(ends, dtype=np.int64, count=2, offset=8 * row) if valid else (0, 0)
            yield content.slice(start, stop - start) if valid else None
