"""The shuffle's quality and its cost are what looking at every sample gives."""

from itertools import pairwise

import numpy as np
import pytest

from orchestrator.stream.dataset.index import DIGEST_BYTES, Index, ShardNames
from orchestrator.stream.order.sample_order import Order
from orchestrator.stream.order.shuffle_quality import (
    PERFECT_MEDIAN,
    PERFECT_PERCENTILE_5,
    batch_cooccurrence,
    neighbour_distance,
    read_cost,
)


def build_index(shards: int, samples_per_shard: int, sample_bytes: int = 1000) -> Index:
    return Index(
        shards=ShardNames(f"shard-{shard:06d}.tar" for shard in range(shards)),
        samples=np.full(shards, samples_per_shard),
        bytes=np.full(shards, samples_per_shard * sample_bytes),
        digests=np.zeros((shards, DIGEST_BYTES), dtype=np.uint8),
        format="webdataset",
    )


def test_separation_of_a_small_epoch_is_exact() -> None:
    order = Order(samples=1000, seed=1, chunk=16, window=64)
    position = np.argsort(order.sample_at(np.arange(1000)))
    distances = np.abs(np.diff(position))
    result = neighbour_distance(order)
    assert result.pairs == 999
    assert result.mean == pytest.approx(distances.mean())
    assert result.median == np.median(distances)
    assert result.percentile_5 == np.percentile(distances, 5)


def test_single_samples_permuted_are_a_perfect_shuffle() -> None:
    order = Order(samples=10**7, seed=1, chunk=1, window=1)
    result = neighbour_distance(order)
    assert result.pairs >= 1000
    assert result.mean / result.epoch == pytest.approx(1 / 3, abs=0.03)
    assert result.median / result.epoch == pytest.approx(PERFECT_MEDIAN, abs=0.03)
    assert result.percentile_5 / result.epoch == pytest.approx(PERFECT_PERCENTILE_5, abs=0.01)


def test_within_chunks_the_window_alone_separates() -> None:
    result = neighbour_distance(Order(samples=10**9, seed=1, chunk=256, window=4096))
    assert result.median == pytest.approx(PERFECT_MEDIAN * 4096, rel=0.05)


def test_without_a_window_neighbours_stay_neighbours() -> None:
    result = neighbour_distance(Order(samples=10**9, seed=1, chunk=256, window=1))
    assert (result.median, result.percentile_5) == (1, 1)


def test_an_epoch_of_one_sample_has_no_neighbours() -> None:
    assert neighbour_distance(Order(samples=1, seed=1, chunk=4, window=8)).pairs == 0


def test_mates_of_a_small_epoch_are_exact() -> None:
    order, index = Order(samples=960, seed=3, chunk=20, window=100), build_index(24, 40)
    batches = order.sample_at(np.arange(960)).reshape(-1, 32)
    pairs = [(a, b) for batch in batches.tolist() for a in batch for b in batch if a != b]
    result = batch_cooccurrence(order, index, 32)
    assert result.chunk == pytest.approx(sum(a // 20 == b // 20 for a, b in pairs) / 960)
    assert result.shard == pytest.approx(sum(a // 40 == b // 40 for a, b in pairs) / 960)
    assert result.perfect_chunk == pytest.approx(19 * 31 / 959)
    assert result.perfect_shard == pytest.approx(39 * 31 / 959)


def test_a_perfect_shuffle_has_the_perfect_number_of_mates() -> None:
    order = Order(samples=16384, seed=3, chunk=64, window=16384)
    result = batch_cooccurrence(order, build_index(128, 128), 64)
    assert result.chunk == pytest.approx(result.perfect_chunk, rel=0.2)
    assert result.shard == pytest.approx(result.perfect_shard, rel=0.2)


def test_the_read_cost_of_a_small_epoch_is_exact() -> None:
    order, index = Order(samples=960, seed=3, chunk=20, window=100), build_index(24, 40, sample_bytes=1000)
    reads = fetched = 0
    for block in order.sample_at(np.arange(960)).reshape(-1, 96):
        numbers = sorted(block.tolist())
        reads, fetched = reads + 1, fetched + 1
        for before, number in pairwise(numbers):
            merged = before // 40 == number // 40 and (number - before - 1) * 1000 <= 2500
            reads, fetched = reads + (not merged), fetched + (number - before if merged else 1)
    result = read_cost(order, index, block_samples=96, gap_bytes=2500)
    assert result.reads_per_1000 == pytest.approx(1000 * reads / 960)
    assert result.amplification == pytest.approx(fetched / 960)


def test_reading_in_storage_order_takes_one_read_per_block_and_shard() -> None:
    order = Order(samples=4000, seed=3, chunk=4000, window=1)
    result = read_cost(order, build_index(4, 1000), block_samples=500, gap_bytes=0)
    assert (result.reads_per_1000, result.amplification) == (2, 1)


def test_larger_gaps_make_fewer_and_longer_reads() -> None:
    order, index = Order(samples=10**6, seed=3, chunk=256, window=4096), build_index(1000, 1000, sample_bytes=40_000)
    costs = [read_cost(order, index, 512, gap) for gap in (0, 2**17, 2**20)]
    assert costs[0].amplification == 1
    assert costs[0].reads_per_1000 > costs[1].reads_per_1000 > costs[2].reads_per_1000
    assert costs[1].amplification < costs[2].amplification


def test_a_block_larger_than_the_epoch_is_the_epoch() -> None:
    result = read_cost(Order(samples=100, seed=3, chunk=10, window=50), build_index(10, 10), 500, 0)
    assert result.reads_per_1000 == 100
