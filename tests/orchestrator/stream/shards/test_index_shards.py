"""Indexes of shards that exist: one pass a shard, taken up again, in threads or in Ray tasks."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated import stored
from shards import index_folder, picture, write_shards

from orchestrator.storage.location import locate
from orchestrator.storage.retry import StorageError
from orchestrator.stream.dataset.index import DataSetError, read_index
from orchestrator.stream.dataset.sidecar import read_sidecar
from orchestrator.stream.shards.executors import Item, Result, ThreadMapper
from orchestrator.stream.shards.index_shards import IndexOptions, ShardProgress, make_index

ONE_BY_ONE = IndexOptions(mapper=ThreadMapper(1))


class Stop(Exception):
    """Stands for whatever ends the work."""


class Watched:
    """A mapper that remembers which shards were read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        for item in items:
            self.read.append(item.shard.name)  # type: ignore[attr-defined]
            yield function(item)


def without_index(folder: str) -> Path:
    for file in Path(folder).glob("*.parquet"):
        if file.name == "index.parquet" or file.name.endswith(".samples.parquet"):
            file.unlink()
    return Path(folder)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def member(content: bytes, number: int) -> int:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getmembers()[number].offset


def ignore(_: ShardProgress) -> None:
    """Show nothing."""


def read_again(folder: Path) -> list[str]:
    watched = Watched()
    make_index(locate(str(folder)), IndexOptions(mapper=watched), ignore)
    return watched.read


def stopped(folder: Path, after: int) -> list[str]:
    watched = Watched()

    def stop(standing: ShardProgress) -> None:
        if standing.shards == after:
            raise Stop

    with pytest.raises(Stop):
        make_index(locate(str(folder)), IndexOptions(mapper=watched), stop)
    return watched.read


def test_a_foreign_shard_is_indexed_with_its_captions_and_digest(tmp_path: Path) -> None:
    members = {
        "a/1.jpg": picture(1),
        "a/1.json": json.dumps({"captions": ["two words", "one"], "width": 9}).encode(),
        "a/2.jpeg": picture(2),
        "a/2.txt": b"a caption of five words",
        "a/2.json": b'{"caption": "a caption of five words"}',
        "a/3.webp": picture(3),
        "a/3.txt": b"\xff not text",
        "README": b"",
    }
    write_tar(tmp_path / "x.tar", members)
    index = index_folder(locate(str(tmp_path)))
    content = (tmp_path / "x.tar").read_bytes()
    sidecar = read_sidecar(locate(str(tmp_path)) / "x.tar")
    assert sidecar.keys.to_pylist() == ["a/1", "a/2", "a/3", "README"]
    assert sidecar.caption_words.to_pylist() == [[2, 1], [5], [], []]
    assert index.digests.tobytes() == hashlib.blake2b(content, digest_size=16).digest()
    assert (index.bytes.tolist(), index.samples.tolist()) == ([len(content)], [4])


def test_parquet_with_columns_of_ones_own(tmp_path: Path) -> None:
    table = pa.table(
        {"pic": [picture(0), picture(1), None], "words": [["a b", "c"], ["d"], []], "name": ["x", None, "z"]}
    )
    pq.write_table(table, tmp_path / "one.parquet")
    names_by_role = {"image": "pic", "captions": "words", "key": "name"}
    index = make_index(locate(str(tmp_path)), IndexOptions(columns=names_by_role), ignore).index
    sidecar = read_sidecar(locate(str(tmp_path)) / "one.parquet")
    assert {role: name for role, name in index.columns.items() if name} == names_by_role
    assert sidecar.keys.to_pylist() == ["x", "one.parquet:1", "z"]
    assert sidecar.sizes.tolist() == [len(picture(0)), len(picture(1)), 0]
    assert sidecar.offsets.tolist() == [0, 1, 2]
    assert sidecar.caption_words.to_pylist() == [[2, 1], [1], []]


def test_image_ids_in_a_column_of_parquet_are_fields(tmp_path: Path) -> None:
    table = {"image": [picture(0)] * 3, "caption": ["a", "b", "c"], "key": ["x", "y", "z"], "img_id": [7, 7, None]}
    pq.write_table(pa.table(table), tmp_path / "one.parquet")
    index = index_folder(locate(str(tmp_path)))
    assert index.columns["image_id"] == "img_id"
    assert [sample.fields for sample in stored(tmp_path)] == [{"image_id": 7}, {"image_id": 7}, {}]
    fields = pa.array(['{"image_id": "mine"}', "{}", "{}"])
    pq.write_table(pa.table({**table, "fields": fields}), tmp_path / "one.parquet")
    index_folder(locate(str(tmp_path)))
    assert [sample.fields for sample in stored(tmp_path)] == [{"image_id": "mine"}, {"image_id": 7}, {}]


def test_an_index_from_before_image_ids_is_read_and_has_the_same_digest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0)], "caption": ["a"], "key": ["x"]}), tmp_path / "one.parquet")
    index = index_folder(locate(str(tmp_path)))
    before = {"image": "image", "address": "", "captions": "caption", "key": "key", "fields": ""}
    assert index.columns == before
    (sample,) = stored(tmp_path)
    assert (sample.key, sample.fields) == ("x", {})


def test_parquet_of_image_structs_and_of_addresses(tmp_path: Path) -> None:
    for name in ("structs", "addresses"):
        (tmp_path / name).mkdir()
    (tmp_path / "addresses/0.png").write_bytes(picture(0))
    cell = {"bytes": picture(0), "path": "0.png"}
    pq.write_table(pa.table({"image": [cell], "text": ["one two"]}), tmp_path / "structs/a.parquet")
    pq.write_table(pa.table({"url": ["0.png"], "text": ["one two"]}), tmp_path / "addresses/a.parquet")
    for name, size in (("structs", len(picture(0))), ("addresses", len("0.png"))):
        index_folder(locate(str(tmp_path / name)))
        assert read_sidecar(locate(str(tmp_path / name)) / "a.parquet").sizes.tolist() == [size]
        (sample,) = stored(tmp_path / name)
        assert (sample.image, sample.captions) == (picture(0), ("one two",))


def test_parquet_shards_must_agree_on_their_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0)], "text": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [picture(0)], "caption": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(DataSetError, match=r"b.parquet: lacks the column 'text'"):
        index_folder(locate(str(tmp_path)))
    with pytest.raises(DataSetError, match=r"a.parquet: has no column 'title'"):
        make_index(locate(str(tmp_path)), IndexOptions(columns={"captions": "title"}), ignore)


@pytest.mark.parametrize("after", [1, 2, 3, 4])
def test_work_that_stopped_goes_on_behind_the_shards_that_were_read(tmp_path: Path, after: int) -> None:
    folder = without_index(write_shards(str(tmp_path), 40, per_shard=10))
    names = [f"shard-{number:06d}.tar" for number in range(4)]
    assert stopped(folder, after) == names[:after]
    assert read_again(folder) == names[after:]
    assert not (folder / ".indexing").exists()
    assert read_again(folder) == names
    assert len(stored(folder)) == 40


def test_a_shard_that_changed_since_is_read_again(tmp_path: Path) -> None:
    folder = without_index(write_shards(str(tmp_path), 40, per_shard=10))
    stopped(folder, 3)
    os.utime(folder / "shard-000001.tar", ns=(1, 1))
    (folder / "shard-000002.tar.samples.parquet").unlink()
    assert read_again(folder) == ["shard-000001.tar", "shard-000002.tar", "shard-000003.tar"]


def test_progress_counts_what_is_there_already(tmp_path: Path) -> None:
    folder = without_index(write_shards(str(tmp_path), 25, per_shard=10))
    stopped(folder, 1)
    standings: list[ShardProgress] = []
    make_index(locate(str(folder)), ONE_BY_ONE, standings.append)
    assert [(one.shards, one.of, one.samples) for one in standings] == [(1, 3, 10), (2, 3, 20), (3, 3, 25)]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[: member(content, 4) + 700], "unexpected end of data"),
        (lambda content: content[: member(content, 4)], "no whole header at byte"),
        (lambda content: content[: member(content, 4) + 100] + b"\xff" * len(content), "no whole header at byte"),
        (lambda content: b"junk" * 400, "no whole header at byte 0"),
        (lambda content: b"", "no whole header at byte 0"),
        (lambda content: content + content, "something follows the end"),
    ],
    ids=["cut short", "cut between members", "overwritten", "junk", "empty", "doubled"],
)
def test_a_damaged_tar_is_named_and_may_be_left_out(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    folder = without_index(write_shards(str(tmp_path), 30, per_shard=10))
    hurt = folder / "shard-000001.tar"
    hurt.write_bytes(damage(hurt.read_bytes()))
    place = locate(str(folder))
    with pytest.raises(DataSetError, match=f"1 of 3 shards are damaged, for example shard-000001.tar .*{reason}"):
        index_folder(place)
    assert not (folder / "index.parquet").exists()
    made = make_index(place, IndexOptions(skip_damaged=True), ignore)
    assert [one.shard for one in made.damaged] == ["shard-000001.tar"]
    assert list(read_index(place).shards) == ["shard-000000.tar", "shard-000002.tar"]


def test_the_whole_shards_are_not_read_again_when_the_damaged_one_is_mended(tmp_path: Path) -> None:
    folder = without_index(write_shards(str(tmp_path), 30, per_shard=10))
    whole = (folder / "shard-000001.tar").read_bytes()
    (folder / "shard-000001.tar").write_bytes(whole[:1000])
    with pytest.raises(DataSetError, match="shards are damaged"):
        index_folder(locate(str(folder)))
    (folder / "shard-000001.tar").write_bytes(whole)
    assert read_again(folder) == ["shard-000001.tar"]


@pytest.mark.parametrize("size", [0, 4, 300, -9])
def test_a_damaged_parquet_shard_may_be_left_out(tmp_path: Path, size: int) -> None:
    folder = without_index(write_shards(str(tmp_path), 30, "parquet", per_shard=10))
    hurt = folder / "shard-000000.parquet"
    hurt.write_bytes(hurt.read_bytes()[:size])
    with pytest.raises(DataSetError, match=r"1 of 3 shards are damaged, for example shard-000000.parquet"):
        index_folder(locate(str(folder)))
    made = make_index(locate(str(folder)), IndexOptions(skip_damaged=True), ignore)
    assert made.index.total == 20


def test_nothing_is_left_of_a_data_set_that_is_all_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"junk")
    with pytest.raises(DataSetError, match="1 of 1 shards are damaged"):
        make_index(locate(str(tmp_path)), IndexOptions(skip_damaged=True), ignore)
    (tmp_path / "a.tar").rename(tmp_path / "a.parquet")
    with pytest.raises(DataSetError, match="none of its 1 shards is a readable Parquet file"):
        make_index(locate(str(tmp_path)), IndexOptions(skip_damaged=True), ignore)


def test_a_folder_without_shards_or_with_two_kinds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"has no .tar or .parquet shards"):
        index_folder(locate(str(tmp_path)))
    (tmp_path / "a.tar").touch()
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataSetError, match=r"has both .tar and .parquet shards"):
        index_folder(locate(str(tmp_path)))


def test_a_failing_store_is_not_taken_for_a_damaged_shard(tmp_path: Path) -> None:
    folder = without_index(write_shards(str(tmp_path), 20, per_shard=10))

    def lose(_: ShardProgress) -> None:
        (folder / "shard-000000.tar").unlink(missing_ok=True)

    with pytest.raises(StorageError, match=r"shard-000000.tar: cannot be read"):
        make_index(locate(str(folder)), IndexOptions(skip_damaged=True), lose)


def test_threads_yield_everything_and_stop_at_the_first_error() -> None:
    assert sorted(ThreadMapper(3)(lambda item: item * item, range(50))) == [number * number for number in range(50)]

    def fail(item: int) -> int:
        if item == 5:
            raise StorageError("the store is failing")
        return item

    done: list[int] = []
    with pytest.raises(StorageError, match="the store is failing"):
        done.extend(ThreadMapper(2)(fail, range(10**9)))
    assert set(done) <= set(range(20))
