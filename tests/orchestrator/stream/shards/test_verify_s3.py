"""Verification of a data set in an object store whose network fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from damage import photo, write_data_set
from s3_server import S3Server
from shards import samples
from unreliable_proxy import Fault, Request, UnreliableProxy, unreliable
from verification import verify

from orchestrator.storage.location import Location, locate
from orchestrator.storage.retry import StorageError


@pytest.fixture
def proxy(seaweedfs_server: S3Server, log_in: Callable[[S3Server], None]) -> Iterator[UnreliableProxy]:
    log_in(seaweedfs_server)
    with unreliable(seaweedfs_server) as running:
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts that take no time; they are collected."""
    collected: list[float] = []
    monkeypatch.setattr("orchestrator.storage.retry.sleep", collected.append)
    return collected


@pytest.fixture(params=["webdataset", "parquet"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    result = list(samples(24))
    result[3] = replace(result[3], image=photo()[:900])
    result[20] = replace(result[20], key="s00001")
    return write_data_set(tmp_path / "data", [result[:8], result[8:16], result[16:]], request.param)


@pytest.fixture
def bucket(local: Path, seaweedfs_server: S3Server, proxy: UnreliableProxy) -> Location:
    name = seaweedfs_server.make_bucket()
    for file in local.iterdir():
        seaweedfs_server.client().put_object(Bucket=name, Key=f"mine/{file.name}", Body=file.read_bytes())
    return locate(f"s3://{name}/mine", proxy.server.endpoint)


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.SLOW_DOWN, Fault.TRUNCATED, Fault.SHORT])
def test_broken_requests_are_no_findings(
    local: Path, bucket: Location, proxy: UnreliableProxy, tmp_path: Path, fault: Fault
) -> None:
    expected = verify(local, tmp_path / "local.jsonl")
    assert {finding.kind for finding in expected} == {"image is truncated", "key is a duplicate"}
    proxy.plan = lambda request: fault if request.byte_range and request.attempt == 1 else None
    assert verify(bucket, tmp_path / "remote.jsonl") == expected
    assert proxy.injected[fault] > 3


def test_a_store_that_keeps_failing_ends_it(bucket: Location, proxy: UnreliableProxy, tmp_path: Path) -> None:
    def fail_second_shard(request: Request) -> Fault | None:
        return Fault.SLOW_DOWN if "shard-000001" in request.target and request.method == "GET" else None

    proxy.plan = fail_second_shard
    report = tmp_path / "report.jsonl"
    with pytest.raises(StorageError, match="shard-000001"):
        verify(bucket, report)
    lines = [json.loads(line) for line in Path(f"{report}.state").read_text().splitlines()]
    assert [line["shard"][:12] for line in lines[1:]] == ["shard-000000"]
