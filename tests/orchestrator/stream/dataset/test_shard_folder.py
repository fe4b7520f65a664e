"""Data sets that are some of a folder's shards, by a pattern of names."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import picture
from wild import pair, tar

from orchestrator.storage.location import StorageError, locate
from orchestrator.stream.dataset.index import DataSetError, check_shards, read_index
from orchestrator.stream.dataset.samples import evenly_spaced, read_numbered
from orchestrator.stream.dataset.shard_folder import index_location, locate_shards
from orchestrator.stream.shards.index_shards import IndexOptions, make_index
from orchestrator.stream.shards.survey import split_patterns


def write(folder: Path) -> Path:
    for number, name in enumerate(("train-0.tar", "train-1.tar", "val-0.tar")):
        tar(folder / name, pair(number))
    return folder


def index(uri: str) -> int:
    return make_index(locate_shards(uri), IndexOptions(), lambda _: None).index.total


def test_patterns_have_indices_of_their_own(tmp_path: Path) -> None:
    write(tmp_path)
    assert [index(f"{tmp_path}/{pattern}") for pattern in ("train-*.tar", "val-*.tar", "*.tar")] == [2, 1, 3]
    train = locate_shards(f"{tmp_path}/train-*.tar")
    located = read_numbered(train, read_index(train), evenly_spaced(2, None))
    assert [sample.content.key for sample in located] == ["0", "1"]
    assert check_shards(train, read_index(train)) == []
    assert len(list(tmp_path.glob("*.index.parquet"))) == 3
    with pytest.raises(DataSetError, match=r"has 3 shards but no index.parquet"):
        read_index(locate(str(tmp_path)))


def test_a_pattern_travels_to_other_processes(tmp_path: Path) -> None:
    train = locate_shards(f"{write(tmp_path)}/train-*.tar")
    copy = pickle.loads(pickle.dumps(train))  # noqa: S301 - our own bytes
    assert copy == train
    assert (copy / "train-0.tar").path == str(tmp_path / "train-0.tar")
    assert index_location(copy).path == index_location(train).path


def test_a_folder_whose_name_has_a_wildcard_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "set[1]").mkdir()
    tar(tmp_path / "set[1]/a.tar", pair(0))
    assert index(f"{tmp_path}/set[1]") == 1


def test_a_pattern_that_matches_nothing_names_the_shards(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"no shard's name matches the pattern; the shards: train-0.tar"):
        index(f"{write(tmp_path)}/tr?in-*.parquet")


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], {"train": "train-*.parquet"}),
        (["train.tar", "test.tar"], {"train": "train*.tar", "test": "test*.tar"}),
        (
            ["in1k-validation-07.tar", "in1k-train-00.tar"],
            {"validation": "in1k-validation-*.tar", "train": "in1k-train-*.tar"},
        ),
        (["a-train-0.tar", "b-train-0.tar"], {"train": "*train*.tar"}),
        (["trains-0.tar", "latest.tar", "testing_0.tar"], {"testing": "testing_*.tar"}),
    ],
)
def test_splits_are_told_by_names(names: list[str], patterns: dict[str, str]) -> None:
    assert split_patterns(names) == patterns


@pytest.mark.parametrize(
    ("uri", "message"),
    [("nowhere", "nowhere: does not exist."), ("nowhere/*.tar", "nowhere: does not exist."), ("a.tar", "is a file")],
)
def test_a_wrong_place_is_named(tmp_path: Path, uri: str, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(picture(0))
    with pytest.raises(DataSetError, match=message):
        index(f"{tmp_path}/{uri}")
    with pytest.raises(DataSetError, match=message):
        read_index(locate_shards(f"{tmp_path}/{uri}"))


def test_another_programs_files_are_not_overwritten(tmp_path: Path) -> None:
    train = f"{write(tmp_path)}/train-*.tar"
    mine = pa.table({"mine": [1]})
    pq.write_table(mine, tmp_path / "train-1.tar.samples.parquet")
    with pytest.raises(DataSetError, match=r"is not a sidecar of train-1.tar, which would overwrite it"):
        index(train)
    pq.write_table(mine, index_location(locate_shards(train)).path)
    with pytest.raises(DataSetError, match="is not an index of shards, and nothing is written over it"):
        index(train)
    assert pq.read_table(tmp_path / "train-1.tar.samples.parquet") == mine


def test_a_colon_makes_no_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("run:1").path == str(tmp_path / "run:1")
    with pytest.raises(StorageError, match="is not a valid address"):
        locate("s3://[x")
