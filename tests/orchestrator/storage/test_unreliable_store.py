"""A store whose network fails: everything arrives, and whole."""

import random
from collections.abc import Callable, Iterator

import pytest
from s3_server import S3Server
from unreliable_proxy import PASSING, Fault, UnreliableProxy, first_attempts, no_faults, seeded, unreliable

from orchestrator.storage.location import Location, locate
from orchestrator.storage.range_reader import FileRange, open_stored, read_ranges
from orchestrator.storage.retry import StorageError

SHARDS = {f"shard-{number}": random.Random(number).randbytes(60_000) for number in range(6)}


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


@pytest.fixture(scope="module")
def stored(seaweedfs_server: S3Server) -> str:
    """A bucket with all shards."""
    name, client = seaweedfs_server.make_bucket(), seaweedfs_server.client()
    for shard, content in SHARDS.items():
        client.put_object(Bucket=name, Key=shard, Body=content)
    return name


@pytest.fixture
def bucket(proxy: UnreliableProxy, stored: str) -> Location:
    return locate(f"s3://{stored}", proxy.server.endpoint)


def ranges(bucket: Location) -> tuple[list[FileRange], list[bytes]]:
    draw = random.Random(3)
    picks = [(draw.choice(list(SHARDS)), draw.randrange(59_000), draw.randrange(1, 1000)) for _ in range(60)]
    wanted = [FileRange(bucket / name, start, start + size) for name, start, size in picks]
    return wanted, [SHARDS[name][start : start + size] for name, start, size in picks]


@pytest.mark.parametrize("fault", PASSING)
def test_ranges_arrive_though_every_first_attempt_fails(fault: Fault, proxy: UnreliableProxy, bucket: Location) -> None:
    proxy.plan = first_attempts(fault)
    wanted, expected = ranges(bucket)
    assert [bytes(found) for found in read_ranges(wanted, 0)] == expected
    assert proxy.injected[fault] == len({key for key in proxy.requests if key[0] == "GET"}) >= 30


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.SLOW_DOWN, Fault.LATENCY])
def test_sizes_arrive_though_every_first_attempt_fails(fault: Fault, proxy: UnreliableProxy, bucket: Location) -> None:
    proxy.plan = first_attempts(fault, methods="HEAD")
    wanted, expected = ranges(bucket)
    assert [bytes(found) for found in read_ranges(wanted, 0)] == expected
    assert proxy.injected[fault] >= len(SHARDS)


@pytest.mark.parametrize("seed", range(3))
def test_ranges_arrive_from_a_store_that_fails_at_random(seed: int, proxy: UnreliableProxy, bucket: Location) -> None:
    proxy.plan = seeded(seed, dict.fromkeys(PASSING, 0.08))
    wanted, expected = ranges(bucket)
    assert [bytes(found) for found in read_ranges(wanted, 0)] == expected
    assert len(proxy.injected) == len(PASSING)


@pytest.mark.parametrize("fault", PASSING)
def test_files_are_read_and_listed(fault: Fault, proxy: UnreliableProxy, bucket: Location) -> None:
    proxy.plan = first_attempts(fault)
    assert (bucket / "shard-1").read() == SHARDS["shard-1"]
    assert proxy.injected[fault] == 1
    if fault is not Fault.SHORT:
        assert bucket.sizes() == {name: len(content) for name, content in SHARDS.items()}
        assert proxy.injected[fault] == 2


@pytest.mark.parametrize("fault", PASSING)
def test_file_objects_read_on(fault: Fault, proxy: UnreliableProxy, bucket: Location) -> None:
    proxy.plan = first_attempts(fault)
    with open_stored(bucket / "shard-1", buffer_bytes=10_000) as file:
        assert file.read() == SHARDS["shard-1"]
    assert proxy.injected[fault] >= 6


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.SLOW_DOWN, Fault.TRUNCATED])
def test_files_are_written_and_deleted(
    fault: Fault, proxy: UnreliableProxy, bucket: Location, seaweedfs_server: S3Server
) -> None:
    content = random.Random(1).randbytes(12_000_000)
    proxy.plan = first_attempts(fault, methods="PUT POST DELETE")
    (bucket / "run" / "file").write(content)
    direct = locate(bucket.uri, seaweedfs_server.endpoint)
    assert (direct / "run" / "file").read() == content
    (bucket / "run" / "file").delete()
    assert not (direct / "run" / "file").exists()
    assert proxy.injected[fault] >= 5


@pytest.mark.parametrize(
    ("fault", "attempts", "reason"),
    [
        (Fault.RESET, 8, "the transfer broke"),
        (Fault.TRUNCATED, 8, "the transfer broke"),
        (Fault.SHORT, 8, "the transfer broke"),
        (Fault.SLOW_DOWN, 10, "the store asks for fewer requests"),
    ],
)
def test_a_store_that_keeps_failing_is_given_up(
    fault: Fault, attempts: int, reason: str, proxy: UnreliableProxy, bucket: Location, waits: list[float]
) -> None:
    proxy.plan = first_attempts(fault, attempts=100)
    with pytest.raises(StorageError, match=f"shard-1: cannot be read after {attempts} attempts: {reason}"):
        read_ranges([FileRange(bucket / "shard-1", 0, 1000)])
    assert attempts <= proxy.injected[fault] <= 2 * attempts
    assert len(waits) == attempts - 1


def test_a_known_object_costs_one_request_per_range(proxy: UnreliableProxy, bucket: Location) -> None:
    proxy.plan = no_faults
    place = bucket / "shard-1"
    read_ranges([FileRange(place, 0, 10)])
    read_ranges([FileRange(place, 20_000, 20_010), FileRange(place, 20_020, 20_030)])
    methods = [method for method, *_ in proxy.requests.elements()]
    assert sorted(methods) == ["GET", "GET", "HEAD"]


def test_one_missing_object_ends_the_reading(bucket: Location) -> None:
    wanted, _ = ranges(bucket)
    with pytest.raises(StorageError, match="gone: cannot be read: it does not exist"):
        read_ranges([*wanted, FileRange(bucket / "gone", 0, 10)], 0)
