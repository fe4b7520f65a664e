"""Building and indexing in an object store, with and without faults on the way."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from annotated import write_list
from s3_server import S3Server
from shards import index_folder, picture
from unreliable_proxy import Fault, first_attempts, unreliable

from orchestrator.storage.location import Location, locate
from orchestrator.stream.dataset.index import DataSetError, ShardFormat, read_index
from orchestrator.stream.dataset.samples import ShardRows, read_samples
from orchestrator.stream.shards.build import BuildOptions, build_annotated
from orchestrator.stream.shards.index_shards import IndexOptions, ShardProgress, make_index
from orchestrator.stream.shards.lists.annotations import AnnotationFiles
from orchestrator.stream.shards.sources import ImageFolder
from workloads.contract import Sample

OPTIONS = BuildOptions(samples_per_shard=4, readers=4)


class Stop(Exception):
    """Stands for whatever ends the work."""


@pytest.fixture
def bucket(seaweedfs_server: S3Server, log_in: Callable[[S3Server], None]) -> Location:
    log_in(seaweedfs_server)
    return locate(f"s3://{seaweedfs_server.make_bucket()}", seaweedfs_server.endpoint)


def stop(standing: ShardProgress) -> None:
    if standing.shards == 2:
        raise Stop


def keys(folder: Location) -> list[str]:
    index = read_index(folder)
    requests = [
        ShardRows(folder / name, range(count)) for name, count in zip(index.shards, index.samples.tolist(), strict=True)
    ]
    contents = [content for part in read_samples(folder, index, requests) for content in part]
    assert all(isinstance(content, Sample) for content in contents)
    return [content.key for content in contents]


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_from_bucket_to_bucket_with_a_stop_on_the_way(bucket: Location, shard_format: ShardFormat) -> None:
    for number in range(14):
        (bucket / f"in/deep/{number:02d}.png").write(picture(number))
        (bucket / f"in/deep/{number:02d}.txt").write(f"photo {number}".encode())
    source, out = ImageFolder(bucket / "in"), bucket / "out"
    options = BuildOptions(shard_format=shard_format, samples_per_shard=4)
    with pytest.raises(Stop):
        build_annotated(source, out, options, stop)
    assert build_annotated(source, out, options).samples == 14
    assert keys(out) == [f"deep/{number:02d}" for number in range(14)]
    assert not (out / ".building").exists()
    assert index_folder(out).digest == read_index(out).digest


def test_a_local_list_of_images_in_a_bucket(bucket: Location, seaweedfs_server: S3Server, tmp_path: Path) -> None:
    for number in range(3):
        (bucket / f"images/{number}.png").write(picture(number))
    entries = [
        {"image": "images/0.png", "caption": "relative"},
        {"image": f"{bucket.uri}/images/1.png", "caption": "by its URI"},
        {"image": "images/nothing.png", "caption": "missing"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    source = AnnotationFiles((locate(str(tmp_path / "list.json")),), bucket, seaweedfs_server.endpoint)
    result = build_annotated(source, bucket / "out", BuildOptions(max_bad_share=0.5))
    assert result.rejected == {"image is missing": 1}
    assert keys(bucket / "out") == ["images/0", "images/1"]


def test_indexing_in_a_bucket_goes_on_behind_what_was_read(bucket: Location, tmp_path: Path) -> None:
    build_annotated(write_list(tmp_path, 14), bucket / "out", OPTIONS)
    whole = read_index(bucket / "out")
    (bucket / "out/index.parquet").delete()
    with pytest.raises(Stop):
        make_index(bucket / "out", IndexOptions(), stop)
    standings: list[ShardProgress] = []
    made = make_index(bucket / "out", IndexOptions(), standings.append)
    assert standings[0].shards >= 2
    assert made.index.digest == whole.digest
    assert not (bucket / "out/.indexing").exists()


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.SLOW_DOWN])
def test_requests_that_fail_at_first_change_nothing(
    bucket: Location, seaweedfs_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("orchestrator.storage.retry.sleep", lambda _: None)
    source = write_list(tmp_path, 14)
    build_annotated(source, bucket / "calm", OPTIONS)
    with unreliable(seaweedfs_server) as proxy:
        rough = locate(bucket.uri, proxy.server.endpoint)
        proxy.plan = first_attempts(fault)
        assert index_folder(rough / "calm").digest == read_index(bucket / "calm").digest
        assert proxy.injected[fault] > 4


def test_a_bucket_and_a_folder_that_do_not_exist_are_named(bucket: Location) -> None:
    nowhere = Location(bucket.filesystem, "no-such-bucket/x", "s3://no-such-bucket/x")
    for read in (index_folder, read_index):
        with pytest.raises(DataSetError, match=r"does not exist: there is no bucket 'no-such-bucket'"):
            read(nowhere)
        with pytest.raises(DataSetError, match=r"/nothing: does not exist"):
            read(bucket / "nothing")
