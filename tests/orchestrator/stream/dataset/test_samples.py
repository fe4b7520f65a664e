from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import write_data_set
from shards import samples

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError, read_index
from orchestrator.stream.dataset.samples import find_keys, read_numbered, stratified_sample


@pytest.mark.parametrize(("total", "count"), [(10, 3), (1_000_000_000, 24), (7, 7), (5, 9)])
def test_choices_are_spread_evenly(total: int, count: int) -> None:
    numbers = stratified_sample(total, count, seed=0)
    assert len(numbers) == min(total, count)
    stretches = numbers * len(numbers) // total
    assert np.array_equal(stretches, np.arange(len(numbers))) or np.all(np.diff(numbers) > 0)
    assert numbers.min() >= 0
    assert numbers.max() < total


def test_a_seed_always_chooses_the_same() -> None:
    assert np.array_equal(stratified_sample(1000, 10, seed=1), stratified_sample(1000, 10, seed=1))
    assert not np.array_equal(stratified_sample(1000, 10, seed=1), stratified_sample(1000, 10, seed=2))


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_samples_are_found_by_number_and_by_key(tmp_path: Path, shard_format: str) -> None:
    result = list(samples(30))
    shards = [result[:7], result[7:20], result[20:]]
    folder = locate(str(write_data_set(tmp_path / "data", shards, shard_format)))  # type: ignore[arg-type]
    index = read_index(folder)
    chosen = list(read_numbered(folder, index, np.array([0, 6, 7, 29])))
    assert [one.content for one in chosen] == [result[number] for number in (0, 6, 7, 29)]
    assert [(one.shard[:12], one.row) for one in chosen[1:3]] == [("shard-000000", 6), ("shard-000001", 0)]
    assert find_keys(folder, index, ["s00025", "s00003", "s00025"]).tolist() == [3, 25]
    with pytest.raises(DataSetError, match="no sample has the key 's99999'"):
        find_keys(folder, index, ["s00003", "s99999"])
