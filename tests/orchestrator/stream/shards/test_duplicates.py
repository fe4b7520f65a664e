from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from damage import write_data_set
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import read_index
from orchestrator.stream.dataset.sidecar import read_sidecar
from orchestrator.stream.shards import checks as module
from orchestrator.stream.shards.checks import find_duplicates, hash_records, repeated_numbers
from workloads.contract import Sample


@given(st.lists(st.text("abc", max_size=2), max_size=60))
@settings(max_examples=60, deadline=None)
def test_every_later_sample_points_to_the_first_with_its_key(keys: list[str]) -> None:
    first: dict[str, int] = {}
    expected = {}
    for number, key in enumerate(keys):
        if key in first:
            expected[number] = first[key]
        first.setdefault(key, number)
    shuffled = np.random.default_rng(0).permutation(len(keys))
    result = hash_records(pa.array([keys[number] for number in shuffled], pa.string()), shuffled)
    assert repeated_numbers(result) == expected


@pytest.mark.parametrize("bucket_samples", [3, 1000])
def test_parts_find_the_same_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_samples: int) -> None:
    keys = [f"k{number % 7}-{number}" if number % 5 else f"twice{number % 2}" for number in range(40)]
    samples = [Sample(key, b"x", ("c",), {}) for key in keys]
    folder = locate(str(write_data_set(tmp_path / "data", [samples[:15], samples[15:]], "parquet")))
    index = read_index(folder)
    monkeypatch.setattr(module, "BUCKET_SAMPLES", bucket_samples)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    shards = [(shard, read_sidecar(folder / index.shards[shard]).keys) for shard in range(2)]
    result = sorted((one.shard, one.detail) for one in find_duplicates(folder, index, shards, scratch))
    assert len(result) == 6
    assert ("shard-000000.parquet", "row 10; first in shard-000000.parquet, row 0") in result
    assert ("shard-000001.parquet", "row 20; first in shard-000000.parquet, row 5") in result
    assert (len(list(scratch.iterdir())) > 1) == (bucket_samples == 3)
