"""Verifications that are interrupted and taken up again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import rewrite, shard_file, write_data_set
from verification import damage_samples, good, kinds, verify

from orchestrator.config.errors import ConfigError
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset.index import ShardFormat
from orchestrator.stream.shards.checks import Checks, Finding, ShardResult
from orchestrator.stream.shards.executors import Item, ProcessMapper, Result
from orchestrator.stream.shards.verify import VerifyRecord


@pytest.fixture(params=["webdataset", "parquet"])
def shard_format(request: pytest.FixtureRequest) -> ShardFormat:
    found: ShardFormat = request.param
    return found


@pytest.fixture
def report(tmp_path: Path) -> Path:
    return tmp_path / "report.jsonl"


class Interrupted:
    """Does some of the work and is interrupted."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, function: Callable[[Item], Result], items: object) -> Iterator[Result]:
        for _, item in zip(range(self.after), items, strict=False):  # type: ignore[call-overload]
            yield function(item)
        raise KeyboardInterrupt


def test_an_interrupted_verification_is_taken_up_again(tmp_path: Path, report: Path, shard_format: ShardFormat) -> None:
    shards = damage_samples(good())
    folder = write_data_set(tmp_path / "data", shards, shard_format)
    whole = verify(folder, tmp_path / "other.jsonl")
    with pytest.raises(KeyboardInterrupt):
        verify(folder, report, mapper=Interrupted(after=2))
    read: list[str] = []
    assert verify(folder, report, read=read) == whole
    assert read == [shard_file(folder, 2, shard_format).name]


def test_a_changed_shard_is_read_again(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "webdataset")
    verify(folder, report)
    shard = shard_file(folder, 1, "webdataset")
    rewrite(shard, lambda content: content + bytes(512))
    read: list[str] = []
    assert kinds(verify(folder, report, read=read)) == {"shard has grown": 1}
    assert read == [shard.name]


def test_other_checks_begin_anew(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "webdataset")
    verify(folder, report)
    read: list[str] = []
    verify(folder, report, Checks(decode=False), read=read)
    assert len(read) == 3


def test_a_record_cut_off_in_a_line_loses_that_line_only(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "webdataset")
    verify(folder, report)
    rewrite(Path(f"{report}.state"), lambda content: content[:-7])
    read: list[str] = []
    assert verify(folder, report, read=read) == []
    assert read == [shard_file(folder, 2, "webdataset").name]


def test_the_record_of_another_data_set_is_refused(tmp_path: Path, report: Path) -> None:
    verify(write_data_set(tmp_path / "one", good(), "webdataset"), report)
    with pytest.raises(ConfigError, match=r"report.jsonl.state: is not of .*two; name another --report"):
        verify(write_data_set(tmp_path / "two", good(), "webdataset"), report)
    Path(f"{report}.state").write_text("my notes\n")
    with pytest.raises(ConfigError, match="is not the record of a verification"):
        verify(tmp_path / "two", report)


class Failing:
    """Loses the store after the first shard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, function: Callable[[Item], Result], items: object) -> Iterator[Result]:
        for item in items:  # type: ignore[attr-defined]
            yield function(item)
            shutil.rmtree(self.folder)


def test_a_failing_store_ends_it_and_is_no_finding(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", good(), "webdataset")
    with pytest.raises(StorageError, match=r"shard-000001\.tar: cannot be read"):
        verify(folder, report, mapper=Failing(folder))
    lines = [json.loads(line) for line in Path(f"{report}.state").read_text().splitlines()]
    assert [line["shard"] for line in lines[1:]] == ["shard-000000.tar"]
    assert lines[1]["findings"] == []


def test_a_record_gives_back_what_was_added(report: Path) -> None:
    result = ShardResult("x", "stamp", 1, 1, (Finding("x", "k", "kind", "caf\u00e9 \ud800"),))
    with VerifyRecord(report, "x", {}) as record:
        record.add(result)
        assert list(record.findings("x")) == list(result.findings)
        assert record.has("x", "stamp")
        assert not record.has("x", "another stamp")


def test_processes_find_the_same(tmp_path: Path, report: Path) -> None:
    folder = write_data_set(tmp_path / "data", damage_samples(good()), "webdataset")
    alone = verify(folder, tmp_path / "alone.jsonl")
    assert verify(folder, report, mapper=ProcessMapper(2)) == alone
