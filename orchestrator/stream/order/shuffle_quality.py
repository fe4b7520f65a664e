"""How well an order shuffles, and how many range reads that costs, measured on samples of the order itself.

The larger `chunk` is, the fewer and longer the reads; the larger `window` is relative to `chunk`, the further
apart neighbours in storage end up. Every metric takes a bounded number of evaluations of the order, so that a data set
of 1e9 samples takes seconds: about one per metric, more with windows of a million samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from orchestrator.stream.dataset.index import Index
from orchestrator.stream.order.sample_order import Ids, Order
from workloads.contract import KeyedRandom

WORK = 1 << 23
"""Approximate number of window positions shuffled for one metric: a second's work."""
WINDOW_OVERHEAD = 1024
"""Fixed cost of shuffling a window, in positions."""
LEAST_SPANS, MOST_SPANS = 32, 4096

PERFECT_MEDIAN = 1 - 0.5**0.5
PERFECT_PERCENTILE_5 = 1 - 0.95**0.5
"""Distance of two random positions, as a share of the epoch: P(distance <= x) = 1 - (1 - x)^2, with mean 1/3."""


@dataclass(frozen=True, slots=True)
class NeighbourDistance:
    """Distance in the epoch of two samples that are neighbours in storage, in samples.

    Args:
        epoch: samples in an epoch; distances divided by it compare with `PERFECT_MEDIAN` and so on.
        pairs: pairs of neighbours that were measured.
        mean: mean distance; a perfect shuffle gives a third of the epoch.
        median: median distance.
        percentile_5: 5th percentile of the distance.
    """

    epoch: int
    pairs: int
    mean: float
    median: float
    percentile_5: float


@dataclass(frozen=True, slots=True)
class BatchCooccurrence:
    """How many other samples of its own chunk, or shard, a sample meets in its micro-batch, on average.

    Args:
        chunk: of the same chunk.
        shard: of the same shard.
        perfect_chunk: the same under a perfect shuffle.
        perfect_shard: the same under a perfect shuffle.
    """

    chunk: float
    shard: float
    perfect_chunk: float
    perfect_shard: float


@dataclass(frozen=True, slots=True)
class ReadCost:
    """What reading blocks of samples costs.

    Args:
        reads_per_1000: range reads for 1,000 samples.
        amplification: bytes read for each byte used, at least 1.
    """

    reads_per_1000: float
    amplification: float


def neighbour_distance(order: Order) -> NeighbourDistance:
    """Measure the distance of neighbours in storage; an epoch of one sample has none and gives zeros."""
    if order.samples == 1:
        return NeighbourDistance(epoch=1, pairs=0, mean=0.0, median=0.0, percentile_5=0.0)
    distances = []
    for numbers in _spans(order, order.samples - 1, min(order.chunk, 256)):
        positions = order.position_of(np.append(numbers, numbers[-1] + 1), epoch=0)
        distances.append(np.abs(np.diff(positions)))
    distance = np.concatenate(distances)
    low, median = np.percentile(distance, [5, 50])
    return NeighbourDistance(order.samples, distance.size, float(distance.mean()), float(median), float(low))


def batch_cooccurrence(order: Order, index: Index, micro_batch_size: int) -> BatchCooccurrence:
    """Measure how many neighbours in storage a sample meets in its micro-batch.

    Args:
        order: the order, over as many samples as the index has.
        index: the data set.
        micro_batch_size: samples per micro-batch.
    """
    size = min(micro_batch_size, order.samples)
    of_chunk, of_shard = [], []
    for positions in _spans(order, _whole(order.samples, size), size * max(1, 1024 // size)):
        for numbers in order.sample_at(positions).reshape(-1, size):
            of_chunk.append(_mean_cooccurrence(numbers // order.chunk))
            of_shard.append(_mean_cooccurrence(index.find(numbers)[0]))
    full, rest = divmod(order.samples, order.chunk)
    chunk_pairs = full * order.chunk * (order.chunk - 1) + rest * (rest - 1)
    shard_pairs = int((index.samples * (index.samples - 1)).sum())
    return BatchCooccurrence(
        chunk=float(np.mean(of_chunk)),
        shard=float(np.mean(of_shard)),
        perfect_chunk=_perfect_cooccurrence(chunk_pairs, order.samples, size),
        perfect_shard=_perfect_cooccurrence(shard_pairs, order.samples, size),
    )


def read_cost(order: Order, index: Index, block_samples: int, gap_bytes: int) -> ReadCost:
    """Measure the range reads of blocks of consecutive positions that are read together.

    Assumes that every sample has the average size, and that two samples of a shard with at most `gap_bytes` between
    them are read in one range. Reading sidecars is not counted.

    Args:
        order: the order, over as many samples as the index has.
        index: the data set.
        block_samples: samples that one reader reads together.
        gap_bytes: ranges with no more than this between them are merged.
    """
    sample_bytes = int(index.bytes.sum()) / index.total
    furthest = 1 + int(gap_bytes / sample_bytes)
    size = min(block_samples, order.samples)
    samples = reads = skipped = 0
    for positions in _spans(order, _whole(order.samples, size), size):
        numbers = np.sort(order.sample_at(positions))
        steps = np.diff(numbers)
        merged = (np.diff(index.find(numbers)[0]) == 0) & (steps <= furthest)
        samples += numbers.size
        reads += numbers.size - int(merged.sum())
        skipped += int((steps[merged] - 1).sum())
    return ReadCost(reads_per_1000=1000 * reads / samples, amplification=1 + skipped / samples)


def _spans(order: Order, stop: int, length: int) -> Iterator[Ids]:
    """Divide range(stop) into spans of `length`; yield all of them when that is little work, else a random sample."""
    spans = -(-stop // length)
    windows_per_span = 2 + length // order.window + length // order.chunk
    count = WORK // (windows_per_span * (WINDOW_OVERHEAD + min(order.window, order.samples)))
    count = max(LEAST_SPANS, min(MOST_SPANS, count))
    if count < spans:
        draw = KeyedRandom((order.seed, "quality", stop, length)).numpy()
        chosen = np.unique(draw.integers(spans, size=count))
    else:
        chosen = np.arange(spans)
    for span in chosen:
        yield np.arange(span * length, min((span + 1) * length, stop), dtype=np.int64)


def _whole(samples: int, length: int) -> int:
    """Return how many samples lie in whole spans of this length."""
    return samples // length * length


def _mean_cooccurrence(groups: Ids) -> float:
    counts = np.unique(groups, return_counts=True)[1]
    return float((counts**2).sum() / groups.size - 1)


def _perfect_cooccurrence(pairs: int, samples: int, micro_batch_size: int) -> float:
    """Return the expected number under a perfect shuffle when this many ordered pairs of samples share a group."""
    return pairs / samples * (micro_batch_size - 1) / max(1, samples - 1)
