from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from damage import write_data_set
from shards import index_folder, samples

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError, read_index
from orchestrator.stream.dataset.parquet import write_parquet
from orchestrator.stream.dataset.samples import evenly_spaced, find_keys, read_numbered, stratified_sample


@pytest.mark.parametrize(("total", "count"), [(10, 3), (1_000_000_000, 24), (7, 7), (5, 9)])
def test_choices_are_spread_evenly(total: int, count: int) -> None:
    numbers = stratified_sample(total, count, seed=0)
    assert len(numbers) == min(total, count)
    stretches = numbers * len(numbers) // total
    assert np.array_equal(stretches, np.arange(len(numbers))) or np.all(np.diff(numbers) > 0)
    assert numbers.min() >= 0
    assert numbers.max() < total


def test_evenly_spaced_numbers_reach_from_the_first_to_the_last() -> None:
    assert evenly_spaced(9, 3).tolist() == [0, 4, 8]
    assert evenly_spaced(3).tolist() == evenly_spaced(3, 5).tolist() == [0, 1, 2]
    assert evenly_spaced(0, 4).tolist() == []


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


def test_images_are_not_in_a_dictionary_and_files_where_they_are_still_read(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    content = list(samples(5))
    (tmp_path / "new" / "a.parquet").write_bytes(write_parquet(content))
    metadata = pq.read_metadata(tmp_path / "new" / "a.parquet").row_group(0)
    encodings = {metadata.column(number).path_in_schema: metadata.column(number).encodings for number in range(4)}
    assert not {encoding for encoding in encodings["image"] if "DICTIONARY" in encoding}
    assert {encoding for encoding in encodings["captions.list.element"] if "DICTIONARY" in encoding}
    pq.write_table(pq.read_table(tmp_path / "new" / "a.parquet"), tmp_path / "old" / "a.parquet")
    for name in ("new", "old"):
        folder = locate(str(tmp_path / name))
        index_folder(folder)
        found = read_numbered(folder, read_index(folder), np.arange(5))
        assert [sample.content for sample in found] == content
