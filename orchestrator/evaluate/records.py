"""What an evaluation keeps of finished pieces of work, so that it goes on where it was stopped. Nothing is pickled."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from orchestrator.storage.location import Location
from orchestrator.stream.unusable import UnusableSample
from workloads.contract import Chunk, Record

VALUES = "values"
"""Name of the array that holds a record's values, as JSON."""

READERS = 16
SUFFIX = ".npz"


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A block after the first stage, without its features.

    Args:
        number: of the block.
        readable: how many of its samples could be read.
        summary: what the workload made of them.
        unreadable: samples that could not be read.
        unusable: samples that the workload cannot use, by row.
    """

    number: int
    readable: int
    summary: Record
    unreadable: tuple[UnusableSample, ...] = ()
    unusable: Mapping[int, UnusableSample] = field(default_factory=dict)

    def as_record(self) -> Record:
        """Return all of it as one record."""
        about = {
            "number": self.number,
            "readable": self.readable,
            "unreadable": [asdict(one) for one in self.unreadable],
            "unusable": [[row, asdict(one)] for row, one in self.unusable.items()],
        }
        return Record(self.summary.arrays, {"about": about, "summary": dict(self.summary.values)})

    @classmethod
    def from_record(cls, record: Record) -> EncodedBlock:
        """Return what `as_record` was called on."""
        about = record.values["about"]
        return cls(
            about["number"],
            about["readable"],
            Record(record.arrays, record.values["summary"]),
            tuple(UnusableSample(**one) for one in about["unreadable"]),
            {row: UnusableSample(**one) for row, one in about["unusable"]},
        )


def encode_record(record: Record) -> bytes:
    """Return a record's stored form; equal records give equal bytes."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {f"array/{name}": record.arrays[name] for name in sorted(record.arrays)}
    arrays[VALUES] = np.frombuffer(json.dumps(record.values, sort_keys=True).encode(), dtype=np.uint8)
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def decode_record(content: bytes) -> Record:
    """Return a record from its stored form.

    Raises:
        ValueError: it is damaged, or holds what would have to be unpickled.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            values: dict[str, Any] = json.loads(arrays[VALUES].tobytes())
            named = {name.removeprefix("array/"): arrays[name] for name in arrays.files if name != VALUES}
    except Exception as error:  # zip files raise errors of many kinds
        raise ValueError(f"is no record ({type(error).__name__}: {error})") from error
    return Record(named, values)


class FinishedWork:
    """The finished pieces of one evaluation, a file each.

    Args:
        folder: of this evaluation alone; None to keep nothing.
    """

    def __init__(self, folder: Location | None) -> None:
        self._folder = folder

    def blocks(self) -> dict[int, EncodedBlock]:
        """Return the finished blocks by number; damaged files are left out, so that their work is done again."""
        found = map(EncodedBlock.from_record, self._read("block"))
        return {block.number: block for block in found}

    def add_block(self, block: EncodedBlock) -> None:
        """Keep a block.

        Raises:
            StorageError: it cannot be written.
        """
        self._write(f"block-{block.number:08d}", block.as_record())

    def results(self, chunks: Sequence[Chunk]) -> dict[int, Record]:
        """Return the finished results by the number of the chunk; those of other chunks are left out."""
        results = {}
        for record in self._read("chunk"):
            about = record.values["about"]
            number = about["number"]
            if number < len(chunks) and about["task"] == task_digest(chunks[number]):
                results[number] = Record(record.arrays, record.values["result"])
        return results

    def add_result(self, number: int, chunk: Chunk, result: Record) -> None:
        """Keep the result of a chunk.

        Raises:
            StorageError: it cannot be written.
        """
        about = {"number": number, "task": task_digest(chunk)}
        values = {"about": about, "result": dict(result.values)}
        self._write(f"chunk-{number:08d}", Record(result.arrays, values))

    def remove(self) -> None:
        """Delete what was kept, once the evaluation is done."""
        if self._folder is not None:
            self._folder.delete()

    def _read(self, kind: str) -> list[Record]:
        if self._folder is None:
            return []
        files = [one for one in self._folder.list() if one.name.startswith(kind) and one.name.endswith(SUFFIX)]
        with ThreadPoolExecutor(READERS) as pool:
            return [record for record in pool.map(_record, files) if record is not None]

    def _write(self, name: str, record: Record) -> None:
        if self._folder is not None:
            (self._folder / f"{name}{SUFFIX}").write(encode_record(record))


def task_digest(chunk: Chunk) -> str:
    """Return a digest of what a chunk asks for."""
    content = encode_record(chunk.task) + json.dumps([chunk.needs, chunk.rows]).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _record(file: Location) -> Record | None:
    try:
        record = decode_record(file.read())
    except ValueError:
        return None
    return record if "about" in record.values else None
