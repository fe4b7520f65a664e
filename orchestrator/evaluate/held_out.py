"""Held-out samples, cut into blocks that are read on their own; what was measured on them, and what cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator.storage.location import Location
from orchestrator.stream.dataset.index import DataSetError, Index
from orchestrator.stream.dataset.samples import evenly_spaced, read_numbered
from orchestrator.stream.dataset.sidecar import Content, Unreadable
from orchestrator.stream.order.sample_order import Ids
from orchestrator.stream.unusable import UnusableSample, count_unusable, describe_unusable
from workloads.contract import BadSample, Block, Evaluation, Sample


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block of held-out samples as it was read.

    Args:
        block: the readable samples.
        unreadable: the others.
    """

    block: Block
    unreadable: tuple[UnusableSample, ...]


@dataclass(frozen=True, slots=True)
class HeldOutSamples:
    """Held-out samples, evenly spaced over a data set. They are read as they are needed, and not kept.

    Args:
        folder: the data set.
        index: its index.
        numbers: of the samples in the data set, ascending; a sample's row is its place here.
        block_size: samples of a block.
    """

    folder: Location
    index: Index
    numbers: Ids
    block_size: int

    @classmethod
    def of(cls, folder: Location, index: Index, block_size: int, limit: int | None = None) -> HeldOutSamples:
        """Choose samples.

        Args:
            folder: the data set.
            index: its index.
            block_size: samples of a block.
            limit: most samples; None for all.

        Raises:
            DataSetError: the data set holds none.
        """
        numbers = evenly_spaced(index.total, limit)
        if not len(numbers):
            raise DataSetError(f"{folder.uri}: holds no samples to evaluate on; name other shards in data.held_out.")
        return cls(folder, index, numbers, block_size)

    @property
    def total(self) -> int:
        """How many samples there are."""
        return len(self.numbers)

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.total // self.block_size)

    @property
    def digest(self) -> str:
        """A digest of which samples these are."""
        content = f"{self.index.digest} {self.total} {self.block_size}".encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def read(self, number: int) -> StoredBlock:
        """Read a block.

        Raises:
            StorageError: the store is failing.
            DataSetError: a sidecar is damaged.
        """
        first = number * self.block_size
        return sort_out(number, first, self._contents(slice(first, first + self.block_size)))

    def sample(self, row: int) -> Sample:
        """Read the sample of a row.

        Raises:
            StorageError: the store is failing.
            DataSetError: it cannot be read, though it could be before.
        """
        (content,) = self._contents(slice(row, row + 1))
        if isinstance(content, Unreadable):
            raise DataSetError(f"{self.folder.uri}: sample {content.key!r} cannot be read any more: {content.fault}.")
        return content

    def _contents(self, rows: slice) -> Iterator[Content]:
        located = read_numbered(self.folder, self.index, self.numbers[rows])
        return (one.content for one in located)


def sort_out(number: int, first_row: int, contents: Iterator[Content]) -> StoredBlock:
    """Tell the readable samples of a block from the others.

    Args:
        number: of the block.
        first_row: row of its first sample.
        contents: all of them in order.
    """
    rows: list[int] = []
    samples: list[Sample] = []
    unreadable: list[UnusableSample] = []
    for row, content in enumerate(contents, first_row):
        if isinstance(content, Unreadable):
            unreadable.append(unusable_sample(content.key, content.fault))
        else:
            rows.append(row)
            samples.append(content)
    return StoredBlock(Block(number, tuple(rows), tuple(samples)), tuple(unreadable))


def unusable_sample(key: str, fault: BadSample) -> UnusableSample:
    """Return the entry of a sample in a list of unusable ones."""
    return UnusableSample(key, fault.reason, fault.detail)


@dataclass(frozen=True, slots=True)
class Measurement:
    """An evaluation and what it was computed on.

    Args:
        evaluation: its metric `skipped` counts all unusable samples.
        unusable: samples that cannot be read, or that the workload cannot use.
        held_out: the samples; the galleries name rows of them.
    """

    evaluation: Evaluation
    unusable: tuple[UnusableSample, ...]
    held_out: HeldOutSamples

    def describe_unusable(self) -> str:
        """Return one line about the unusable samples; empty when there are none."""
        return describe(self.held_out, self.unusable) if self.unusable else ""

    def images(self) -> Mapping[int, bytes]:
        """Read the encoded images that the galleries show, by row.

        Raises:
            StorageError: the store is failing.
            DataSetError: one cannot be read any more.
        """
        shown = {picture.index for one in self.evaluation.galleries for row in one.rows for picture in row.pictures}
        return {row: self.held_out.sample(row).image for row in sorted(shown)}


def describe(held_out: HeldOutSamples, unusable: tuple[UnusableSample, ...]) -> str:
    """Return one line about unusable samples, of which there are some."""
    folder = held_out.folder
    return describe_unusable(count_unusable(unusable), held_out.total, folder.uri, folder.endpoint)
