"""The door to storage before two real S3 servers."""

import os
import pickle
import random
from collections.abc import Callable

import pytest
from s3_server import S3Server

from orchestrator.storage.filesystem import CHECKSUM_VARIABLES
from orchestrator.storage.location import Location, locate
from orchestrator.storage.range_reader import FileRange, read_ranges
from orchestrator.storage.retry import StorageError

PARTS_BYTES = 12_000_000
"""More than one part of a multipart upload."""


@pytest.fixture(params=["seaweedfs", "rclone"])
def server(request: pytest.FixtureRequest, log_in: Callable[[S3Server], None]) -> S3Server:
    found: S3Server = request.getfixturevalue(f"{request.param}_server")
    log_in(found)
    return found


@pytest.fixture
def bucket(server: S3Server) -> Location:
    return locate(f"s3://{server.make_bucket()}", server.endpoint)


def test_files_are_written_and_read_back(bucket: Location) -> None:
    place = bucket / "folder" / "file"
    for content in (b"one", b"", b"two, longer"):
        place.write(content)
        assert place.read() == content
        assert place.size() == len(content)
        assert place.exists()


def test_large_files_are_written_in_parts(bucket: Location, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.location.PART_BYTES", 5_000_000)
    content = random.Random(1).randbytes(PARTS_BYTES)
    (bucket / "large").write(content)
    assert (bucket / "large").read() == content
    assert server.client().get_object(Bucket=bucket.path, Key="large")["Body"].read() == content


def test_a_file_in_several_parts_is_one_object(bucket: Location) -> None:
    parts = [random.Random(number).randbytes(PARTS_BYTES // 2) for number in range(3)]
    (bucket / "parts").write(parts[0], memoryview(parts[1]), parts[2])
    assert (bucket / "parts").read() == b"".join(parts)
    assert bucket.changed() is not None


def test_folders_are_listed(bucket: Location) -> None:
    for name in ("b", "a", "deeper/c"):
        (bucket / "folder" / name).write(name.encode())
    assert [place.name for place in (bucket / "folder").list()] == ["a", "b", "deeper"]
    assert (bucket / "folder").sizes() == {"a": 1, "b": 1}
    assert (bucket / "folder").exists()
    assert (bucket / "folder").size() is None


def test_what_is_not_there(bucket: Location) -> None:
    nothing = bucket / "nothing"
    assert nothing.list() == []
    assert nothing.size() is None
    assert not nothing.exists()
    nothing.delete()
    with pytest.raises(StorageError, match=r"nothing: cannot be read: it does not exist\.$"):
        nothing.read()
    with pytest.raises(StorageError, match=r"nothing: cannot be read: it does not exist\.$"):
        read_ranges([FileRange(nothing, 0, 10)])


def test_files_and_folders_are_deleted(bucket: Location) -> None:
    for number in range(20):
        (bucket / "run" / "step" / str(number)).write(b"x")
    (bucket / "run" / "kept").write(b"x")
    (bucket / "run" / "step").delete()
    assert not (bucket / "run" / "step").exists()
    assert (bucket / "run").sizes() == {"kept": 1}
    assert (bucket / "run" / "kept").read() == b"x"
    (bucket / "run" / "kept").delete()
    assert (bucket / "run").sizes() == {}


def test_deleting_spares_names_that_begin_alike(bucket: Location) -> None:
    for name in ("step-1/x", "step-10/x", "step-1.json"):
        (bucket / name).write(b"x")
    (bucket / "step-1").delete()
    assert [place.name for place in bucket.list()] == ["step-1.json", "step-10"]


def test_a_bucket_itself_is_never_deleted(bucket: Location) -> None:
    (bucket / "x").write(b"x")
    with pytest.raises(StorageError, match="is a whole bucket"):
        bucket.delete()
    assert (bucket / "x").read() == b"x"


def test_ranges_of_many_objects(bucket: Location) -> None:
    contents = {f"shard-{number}": random.Random(number).randbytes(50_000) for number in range(5)}
    for name, content in contents.items():
        (bucket / name).write(content)
    draw = random.Random(7)
    ranges = [(draw.choice(list(contents)), draw.randrange(49_000), draw.randrange(1, 1000)) for _ in range(100)]
    for gap_bytes in (0, None):
        found = read_ranges([FileRange(bucket / name, start, start + size) for name, start, size in ranges], gap_bytes)
        assert [bytes(one) for one in found] == [contents[name][start : start + size] for name, start, size in ranges]


def test_a_range_behind_the_end_comes_back_short(bucket: Location) -> None:
    place = bucket / "x"
    place.write(b"0123456789")
    wanted = [FileRange(place, 8, 12), FileRange(place, 20, 30), FileRange(place, 0, 3)]
    assert [bytes(found) for found in read_ranges(wanted, 0)] == [b"89", b"", b"012"]


@pytest.mark.parametrize("later", [b"abc", b"abcdefghijklmnopqrst"], ids=["shorter", "longer"])
def test_an_object_that_changes_its_length_is_noticed(bucket: Location, later: bytes) -> None:
    place = bucket / "x"
    place.write(b"0123456789")
    assert [bytes(found) for found in read_ranges([FileRange(place, 5, 10)])] == [b"56789"]
    place.write(later)
    assert [bytes(found) for found in read_ranges([FileRange(place, 5, 20)])] == [later[5:20]]
    assert [bytes(found) for found in read_ranges([FileRange(place, 1, 3)])] == [later[1:3]]


def test_an_unknown_bucket_is_named(server: S3Server) -> None:
    place = locate("s3://no-such-bucket", server.endpoint)
    assert not place.exists()
    with pytest.raises(StorageError, match="no-such-bucket/x: cannot be read: it does not exist"):
        (place / "x").read()
    with pytest.raises(
        StorageError,
        match=r"no-such-bucket/x: cannot be written: the bucket does not exist.*the bucket first, or correct the URI",
    ):
        (place / "x").write(b"content")


def test_locations_travel_without_credentials(bucket: Location, server: S3Server) -> None:
    (bucket / "x").write(b"content")
    packed = pickle.dumps(bucket / "x")
    assert server.secret_key.encode() not in packed
    travelled = pickle.loads(packed)  # noqa: S301
    assert travelled == bucket / "x"
    assert hash(travelled) == hash(bucket / "x")
    assert travelled.filesystem is bucket.filesystem
    assert travelled.read() == b"content"


@pytest.mark.parametrize("variable", [None, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_any_endpoint_switches_new_checksums_off(
    server: S3Server, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CHECKSUM_VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if variable is not None:
        monkeypatch.setenv(variable, server.endpoint)
    place = locate(f"s3://{server.make_bucket()}/x", server.endpoint if variable is None else None)
    assert [os.environ[name] for name in CHECKSUM_VARIABLES] == ["WHEN_REQUIRED"] * 2
    place.write(b"content")
    assert place.read() == b"content"
