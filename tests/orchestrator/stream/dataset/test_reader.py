"""Micro-batches are a pure function of their number, and bad samples move no other."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from shards import index_folder, picture, samples, write_shards
from streams import make_reader, read_batches

from orchestrator.config.errors import FuserayError
from orchestrator.storage.location import locate
from orchestrator.stream.dataset import webdataset
from orchestrator.stream.dataset.index import DataSetError, ShardFormat, check_shards, read_index
from orchestrator.stream.dataset.samples import ShardRows, read_numbered, read_samples
from orchestrator.stream.dataset.sidecar import Unreadable
from workloads.contract import Sample

COUNT = 120


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_one_epoch_reads_every_key_once(tmp_path: Path, shard_format: ShardFormat) -> None:
    reader = make_reader(write_shards(str(tmp_path), COUNT, shard_format))
    keys = [key for batch in read_batches(reader, range(COUNT // 8)) for key in batch.keys]
    assert sorted(keys) == [sample.key for sample in samples(COUNT)]


def test_formats_give_the_same_micro_batches(tmp_path: Path) -> None:
    readers = [make_reader(write_shards(str(tmp_path / kind), COUNT, kind)) for kind in ("webdataset", "parquet")]
    for one, other in zip(*(read_batches(reader, [3, 4]) for reader in readers), strict=True):
        assert one.keys == other.keys
        np.testing.assert_array_equal(one.features["image"], other.features["image"])


def test_reading_alone_or_together_makes_no_difference(tmp_path: Path) -> None:
    reader = make_reader(write_shards(str(tmp_path), COUNT))
    together = read_batches(reader, [2, 9, 4])
    alone = [read_batches(reader, [number])[0] for number in (2, 9, 4)]
    for one, other in zip(together, alone, strict=True):
        assert (one.number, one.keys, one.fingerprint) == (other.number, other.keys, other.fingerprint)
        np.testing.assert_array_equal(one.features["image"], other.features["image"])


def test_the_last_micro_batch_may_be_short_or_empty(tmp_path: Path) -> None:
    reader = make_reader(write_shards(str(tmp_path), COUNT), total=20)
    assert [batch.samples for batch in read_batches(reader, [0, 1, 2, 3])] == [8, 8, 4, 0]


def test_a_corrupt_image_is_skipped_and_moves_no_other(tmp_path: Path) -> None:
    whole = make_reader(write_shards(str(tmp_path / "whole"), COUNT))
    hurt_samples = [
        Sample(sample.key, b"\x89PNG not an image" + bytes(len(sample.image) - 17), sample.captions, sample.fields)
        if sample.key == "s00033"
        else sample
        for sample in samples(COUNT)
    ]
    hurt = make_reader(_written(tmp_path / "hurt", hurt_samples))
    result = [batch for batch in read_batches(hurt, range(COUNT // 8)) if batch.skipped]
    assert len(result) == 1
    (skipped,) = result[0].skipped
    assert (skipped.key, skipped.reason) == ("s00033", "image is corrupt")
    before = read_batches(whole, [result[0].number])[0].keys
    assert result[0].keys == tuple(key for key in before if key != "s00033")


def test_a_shard_that_was_cut_short_loses_only_its_tail(tmp_path: Path) -> None:
    folder = write_shards(str(tmp_path), COUNT)
    shard = Path(folder) / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    index = read_index(locate(folder))
    assert check_shards(locate(folder), index) == ["shard-000001.tar"]
    batches = read_batches(make_reader(folder), range(COUNT // 8))
    skipped = [skip for batch in batches for skip in batch.skipped]
    assert 20 <= len(skipped) <= 30
    assert {(skip.shard, skip.reason) for skip in skipped} == {(str(shard), "shard is truncated")}
    assert sum(batch.samples for batch in batches) + len(skipped) == COUNT


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"png": picture(0), "txt": b"\xff\xfe\x00bad"}, "caption is not UTF-8"),
        ({"png": picture(0), "json": b"{not json"}, "json is malformed"),
        ({"png": picture(0), "json": b"[1]"}, "json is malformed"),
        ({"png": picture(0), "json": b'{"caption": 5}'}, "caption is not text"),
        ({"png": picture(0)}, "caption is missing"),
        ({"txt": b"words only"}, "image is missing"),
    ],
)
def test_samples_that_are_not_whole_say_why(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for suffix, content in members.items():
            member = tarfile.TarInfo(f"one.{suffix}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    index = index_folder(locate(str(tmp_path)))
    folder = locate(str(tmp_path))
    ((result,),) = read_samples(folder, index, [ShardRows(folder / "a.tar", [0])])
    assert isinstance(result, Unreadable)
    assert result.fault.reason == reason


def test_foreign_webdataset_shards_can_be_indexed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(3):
            for suffix, content in (("jpg", picture(number)), ("txt", f"caption {number}".encode())):
                member = tarfile.TarInfo(f"sub.dir/{number:03d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    index_folder(locate(str(tmp_path)))
    folder = locate(str(tmp_path))
    result = [sample.content for sample in read_numbered(folder, read_index(folder), np.arange(3))]
    assert [sample.captions for sample in result] == [("caption 0",), ("caption 1",), ("caption 2",)]
    assert [sample.key for sample in result] == ["sub.dir/000", "sub.dir/001", "sub.dir/002"]


def test_a_changed_data_set_is_refused(tmp_path: Path) -> None:
    folder = write_shards(str(tmp_path), COUNT)
    reader = make_reader(folder)
    write_shards(str(tmp_path), COUNT + 1)
    with pytest.raises(DataSetError, match="changed while the run was using it"):
        reader.read([0])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "no .tar or .parquet shards"),
        (
            lambda folder: (folder.mkdir(), (folder / "a.tar").write_bytes(webdataset.write(list(samples(2))))),
            "no index",
        ),
        (lambda folder: (folder.mkdir(), (folder / "index.parquet").write_bytes(b"junk")), "not a readable index"),
    ],
)
def test_data_that_cannot_be_used_is_explained(tmp_path: Path, prepare, message: str) -> None:  # noqa: ANN001
    prepare(tmp_path / "data")
    with pytest.raises(FuserayError, match=message):
        read_index(locate(str(tmp_path / "data")))


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = write_shards(str(tmp_path), COUNT)
    (Path(folder) / "shard-000001.tar").unlink()
    with pytest.raises(DataSetError, match=r"1 of 3 shards are missing, for example shard-000001.tar"):
        check_shards(locate(folder), read_index(locate(folder)))


def test_a_second_build_does_nothing(tmp_path: Path) -> None:
    folder = Path(write_shards(str(tmp_path), COUNT))
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    write_shards(str(tmp_path), COUNT)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def _written(folder: Path, items: list[Sample]) -> str:
    folder.mkdir()
    for number in range(0, len(items), 50):
        (folder / f"shard-{number // 50:06d}.tar").write_bytes(webdataset.write(items[number : number + 50]))
    index_folder(locate(str(folder)))
    return str(folder)


def test_a_damaged_row_group_is_skipped_and_no_other(tmp_path: Path) -> None:
    folder = write_shards(str(tmp_path), COUNT, "parquet")
    shard = Path(folder) / "shard-000001.parquet"
    content = bytearray(shard.read_bytes())
    content[4:400] = bytes(396)
    shard.write_bytes(content)
    batches = read_batches(make_reader(folder), range(COUNT // 8))
    skipped = [skip for batch in batches for skip in batch.skipped]
    assert {(Path(skip.shard).name, skip.reason) for skip in skipped} == {(shard.name, "shard is corrupt")}
    assert sum(batch.samples for batch in batches) + len(skipped) == COUNT


def test_deeply_nested_json_is_malformed_and_no_crash(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for suffix, content in (("png", picture(0)), ("json", b"[" * 100_000)):
            member = tarfile.TarInfo(f"one.{suffix}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    folder = locate(str(tmp_path))
    ((result,),) = read_samples(folder, index_folder(folder), [ShardRows(folder / "a.tar", [0])])
    assert isinstance(result, Unreadable)
    assert result.fault.reason == "json is malformed"
