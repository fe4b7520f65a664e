"""Statistics of a data set: captions from the sidecars, images from the headers of some samples, shuffle quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.storage.location import Location
from orchestrator.storage.range_reader import OBJECT_STORE_READERS
from orchestrator.stream.dataset.faults import FaultCount, FaultTally
from orchestrator.stream.dataset.images import read_header
from orchestrator.stream.dataset.index import Index
from orchestrator.stream.dataset.judgement import image_fault
from orchestrator.stream.dataset.samples import read_numbered, stratified_sample
from orchestrator.stream.dataset.sidecar import Content, Unreadable, read_sidecar
from orchestrator.stream.order.sample_order import Ids, Order
from orchestrator.stream.order.shuffle_quality import (
    BatchCooccurrence,
    NeighbourDistance,
    ReadCost,
    batch_cooccurrence,
    neighbour_distance,
    read_cost,
)

MOST_WORDS = 10_000
"""Longer captions are counted as having this many words."""

SHARDS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class CaptionCounts:
    """How many captions have how many words, and how many samples how many captions.

    Args:
        words: captions with 0, 1, 2 ... words, int64[n].
        per_sample: samples with 0, 1, 2 ... captions, int64[n].
        shards: number of shards that were read.
    """

    words: Ids
    per_sample: Ids
    shards: int


@dataclass(frozen=True, eq=False)
class ImageSizes:
    """The images of some samples.

    Args:
        widths: in pixels, int64[n].
        heights: in pixels, int64[n].
        bytes: of the files, int64[n].
        formats: how many images there are of each format, the most frequent first.
        faults: the samples that cannot be used, by reason; images are not decoded.
    """

    widths: Ids
    heights: Ids
    bytes: Ids
    formats: dict[str, int]
    faults: tuple[FaultCount, ...] = ()

    @property
    def unusable(self) -> int:
        """Number of samples that cannot be used."""
        return sum(fault.count for fault in self.faults)


@dataclass(frozen=True, slots=True)
class ShuffleParams:
    """The settings of a recipe that determine how well the order shuffles.

    Args:
        chunk: consecutive samples that stay together until the windows are shuffled.
        window: samples that are shuffled among themselves, and read together.
        micro_batch_size: samples of a micro-batch.
        gap_bytes: ranges with no more than this between them are merged.
    """

    chunk: int
    window: int
    micro_batch_size: int
    gap_bytes: int


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How well some settings shuffle a data set, and what reading it costs."""

    knobs: ShuffleParams
    separation: NeighbourDistance
    mates: BatchCooccurrence
    cost: ReadCost


def count_captions(
    folder: Location, index: Index, most_shards: int, progress: Callable[[], None] = lambda: None
) -> CaptionCounts:
    """Count captions and their words in the sidecars.

    Args:
        folder: the data set.
        index: its index.
        most_shards: if there are more shards, a stratified sample of this size is read.
        progress: called after every shard.

    Raises:
        StorageError: a sidecar is missing, or the store is failing.
        DataSetError: a sidecar is damaged.
    """
    words, per_sample = np.zeros(MOST_WORDS + 1, np.int64), np.zeros(1, np.int64)
    shards = stratified_sample(len(index.shards), most_shards, seed=0).tolist()
    with ThreadPoolExecutor(OBJECT_STORE_READERS) as pool:
        for start in range(0, len(shards), SHARDS_AT_ONCE):
            for column in pool.map(partial(_caption_words, folder, index), shards[start : start + SHARDS_AT_ONCE]):
                lengths = np.minimum(pc.list_flatten(column).to_numpy(), MOST_WORDS)
                words += np.bincount(lengths, minlength=MOST_WORDS + 1)
                per_sample = _sum(per_sample, np.bincount(pc.list_value_length(column).to_numpy()))
                progress()
    return CaptionCounts(np.trim_zeros(words, "b"), per_sample, len(shards))


def measure_images(folder: Location, index: Index, count: int, progress: Callable[[], None]) -> ImageSizes:
    """Read the image headers of a stratified sample of a data set.

    Args:
        folder: the data set.
        index: its index.
        count: size of the sample.
        progress: called after every sample.

    Raises:
        StorageError: the store is failing.
    """
    sizes: list[tuple[int, int, int]] = []
    formats: Counter[str] = Counter()
    faults = FaultTally()
    for sample in read_numbered(folder, index, stratified_sample(index.total, count, seed=0)):
        fault = image_fault(sample.content)
        if fault is None:
            _measure(sample.content, sizes, formats)
        else:
            faults.add(sample.shard, sample.content.key, fault)
        progress()
    widths, heights, sizes_bytes = np.array(sizes, np.int64).reshape(-1, 3).T
    return ImageSizes(widths, heights, sizes_bytes, dict(formats.most_common()), faults.counts())


def measure_shuffle(index: Index, params: ShuffleParams, seed: int) -> Shuffle:
    """Measure how well the settings shuffle a data set and what reading it costs; see `shuffle_quality`."""
    window = max(1, params.window // params.micro_batch_size) * params.micro_batch_size
    order = Order(samples=index.total, seed=seed, chunk=params.chunk, window=window)
    return Shuffle(
        params,
        neighbour_distance(order),
        batch_cooccurrence(order, index, params.micro_batch_size),
        read_cost(order, index, window, params.gap_bytes),
    )


def percentile(counts: Ids, share: float) -> int:
    """Return a percentile of counted values: the least value that at least a share of them does not exceed.

    Args:
        counts: how often there is 0, 1, 2 ..., int64[n], not all zero.
        share: in [0, 1].
    """
    return int(np.searchsorted(np.cumsum(counts), max(1.0, share * int(counts.sum()))))


def _caption_words(folder: Location, index: Index, shard: int) -> pa.ListArray:
    return read_sidecar(folder / index.shards[shard]).caption_words


def _measure(content: Content, sizes: list[tuple[int, int, int]], formats: Counter[str]) -> None:
    if isinstance(content, Unreadable):
        return
    header = read_header(content.image)
    formats[header.format] += 1
    sizes.append((header.width, header.height, len(content.image)))


def _sum(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add two arrays of counts of different lengths."""
    short, long = sorted((first, second), key=len)
    total = long.astype(np.int64)
    total[: len(short)] += short
    return total
