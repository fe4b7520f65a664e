"""Writes samples as shards with sidecars, and a corpus as indexed shards, one folder per split."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.storage.location import Location
from orchestrator.stream.dataset import webdataset
from orchestrator.stream.dataset.columns import Columns
from orchestrator.stream.dataset.index import (
    DataSetError,
    ShardFacts,
    ShardFormat,
    build_index,
    shard_digest,
    write_index,
)
from orchestrator.stream.dataset.parquet import write_parquet
from orchestrator.stream.dataset.sidecar import SidecarEntry, count_words, write_sidecar
from workloads.contract import Example, Sample

RECEIPT_NAME = "build.json"

SUFFIXES = {"webdataset": "tar", "parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class CorpusBuild:
    """The result of a build: the corpus's source, samples per split, and whether it was up to date before."""

    source: Mapping[str, str]
    samples: Mapping[str, int]
    up_to_date: bool


def build(
    examples: Callable[[], Iterable[Example]],
    source: Mapping[str, str],
    destination: Location,
    shard_format: ShardFormat,
    samples_per_shard: int,
    progress: Callable[[int], None] = lambda _: None,
) -> CorpusBuild:
    """Write a corpus below a destination, unless the same corpus is up to date there.

    The receipt first says which splits are being built and last how many samples they have, so an interrupted build
    never counts as complete.

    Args:
        examples: yields the corpus's examples; not called when the build is up to date.
        source: everything that determines the corpus.
        destination: gets a folder per split.
        shard_format: format of the shards.
        samples_per_shard: samples in all shards of a split but its last.
        progress: called with the number of samples written so far.

    Raises:
        DataSetError: the destination, or a split's folder in it, holds what no build of a corpus has written.
    """
    made_of = {**source, "format": shard_format, "samples_per_shard": str(samples_per_shard)}
    receipt = destination / RECEIPT_NAME
    begun = _read_receipt(receipt)
    if begun and begun["source"] == made_of and "samples" in begun:
        return CorpusBuild(source, begun["samples"], up_to_date=True)
    ours = set(begun.get("splits", begun.get("samples", ()))) if begun else set()
    writers: dict[str, _SplitWriter] = {}
    for number, example in enumerate(examples(), start=1):
        if example.split not in writers:
            _check_ours(destination / example.split, example.split in ours)
            ours.add(example.split)
            _write_receipt(receipt, {"source": made_of, "splits": sorted(ours)})
            (destination / example.split).delete()
            writers[example.split] = _SplitWriter(destination / example.split, shard_format, samples_per_shard)
        writers[example.split].add(example.sample)
        progress(number)
    samples = {split: writer.finish() for split, writer in writers.items()}
    _write_receipt(receipt, {"source": made_of, "splits": sorted(ours), "samples": samples})
    return CorpusBuild(source, samples, up_to_date=False)


def _read_receipt(receipt: Location) -> dict[str, Any] | None:
    """Return the receipt of an earlier build, finished or not; None when there is none.

    Raises:
        DataSetError: the file is something else.
    """
    if receipt.size() is None:
        return None
    try:
        content = json.loads(receipt.read())
    except ValueError:
        content = None
    if not isinstance(content, dict) or "source" not in content or not ("samples" in content or "splits" in content):
        raise DataSetError(
            f"{receipt.uri}: is no record of a corpus, which would replace it; rename it, or name another destination."
        )
    return content


def _write_receipt(receipt: Location, content: Mapping[str, Any]) -> None:
    receipt.write(json.dumps(content, indent=2, sort_keys=True).encode())


def _check_ours(folder: Location, is_ours: bool) -> None:
    """Raise unless the folder of a split may be replaced: an earlier build wrote it, or nothing is in it.

    Raises:
        DataSetError: it is someone else's.
    """
    if not is_ours and (files := folder.list()):
        raise DataSetError(
            f"{folder.uri}: is not empty ({files[0].name}) and was not begun by this command; name another destination."
        )


class _SplitWriter:
    """Collects the samples of one split and writes every full shard."""

    def __init__(self, folder: Location, shard_format: ShardFormat, samples_per_shard: int) -> None:
        self._folder = folder
        self._format = shard_format
        self._samples_per_shard = samples_per_shard
        self._pending: list[Sample] = []
        self._shards: list[ShardFacts] = []

    def add(self, sample: Sample) -> None:
        self._pending.append(sample)
        if len(self._pending) == self._samples_per_shard:
            self._flush()

    def finish(self) -> int:
        """Write what is pending and the index; return the number of samples."""
        if self._pending:
            self._flush()
        index = build_index(self._shards, self._format, written_columns(self._format))
        write_index(self._folder, index)
        return index.total

    def _flush(self) -> None:
        name = shard_name(len(self._shards), self._format)
        self._shards.append(write_shard(self._folder / name, self._pending, self._format))
        self._pending = []


def shard_name(number: int, shard_format: ShardFormat) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.{SUFFIXES[shard_format]}"


def written_columns(shard_format: ShardFormat) -> Mapping[str, str]:
    """Return the columns by role of the Parquet shards that `write_shard` writes; empty for tar shards."""
    columns = Columns(image="image", address="", captions="captions", key="key", fields="fields")
    return columns.as_mapping() if shard_format == "parquet" else {}


def write_shard(shard: Location, samples: Sequence[Sample], shard_format: ShardFormat) -> ShardFacts:
    """Write a shard and its sidecar, each atomically.

    Raises:
        StorageError: they cannot be written.
    """
    if shard_format == "webdataset":
        content = webdataset.write(samples)
        scanned = webdataset.scan(io.BytesIO(content))
        entries = [SidecarEntry.of(sample.content, sample.offset, sample.size) for sample in scanned]
    else:
        content = write_parquet(samples)
        entries = [
            SidecarEntry(sample.key, row, len(sample.image), count_words(sample.captions))
            for row, sample in enumerate(samples)
        ]
    shard.write(content)
    write_sidecar(shard, entries)
    return ShardFacts(shard.name, len(samples), len(content), shard_digest(content))
