"""Shards built from files: what goes in comes out, bad samples are listed, and a stopped build goes on."""

import json
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
from annotated import stored, write_list
from shards import index_folder, picture

from orchestrator.config.errors import FuserayError
from orchestrator.storage.jsonl_log import JsonlLog
from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError, ShardFormat, read_index
from orchestrator.stream.dataset.sidecar import read_sidecar
from orchestrator.stream.shards.build import BuildOptions, BuildResult, build_annotated
from orchestrator.stream.shards.index_shards import ShardProgress
from orchestrator.stream.shards.lists.annotations import AnnotationFiles
from orchestrator.stream.shards.sources import ImageFolder, key_of

COUNT = 20
OPTIONS = BuildOptions(samples_per_shard=6, readers=2)


class Stop(Exception):
    """Stands for whatever ends a build."""


def built(source: AnnotationFiles | ImageFolder, out: Path, options: BuildOptions = OPTIONS) -> BuildResult:
    return build_annotated(source, locate(str(out)), options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.startswith("shard-")}


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_a_list_in_albefs_form_makes_a_round_trip(tmp_path: Path, shard_format: ShardFormat) -> None:
    source = write_list(tmp_path, COUNT)
    options = BuildOptions(shard_format=shard_format, samples_per_shard=6)
    result = built(source, tmp_path / "out", options)
    assert (result.samples, result.shards, result.rejected, result.repeated_images) == (COUNT, 4, {}, 0)
    samples = stored(tmp_path / "out")
    assert [sample.key for sample in samples] == [f"photos/{number:03d}" for number in range(COUNT)]
    assert [sample.image for sample in samples] == [picture(number) for number in range(COUNT)]
    assert samples[3].captions == ("photo 3", "a patch of colours")
    assert samples[4].captions == ("photo 4",)
    assert samples[4].fields == {"image": "photos/004.png", "image_id": 4}


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_a_build_and_an_index_of_its_shards_agree(tmp_path: Path, shard_format: ShardFormat) -> None:
    built(write_list(tmp_path, COUNT), tmp_path / "out", BuildOptions(shard_format=shard_format, samples_per_shard=6))
    place = locate(str(tmp_path / "out"))
    index, sidecar = read_index(place), contents(tmp_path / "out")
    assert read_sidecar(place / index.shards[0]).caption_words.to_pylist()[:2] == [[2, 4], [2]]
    assert index_folder(place).digest == index.digest
    assert contents(tmp_path / "out") == sidecar


def test_a_folder_with_captions_beside_the_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "b.dir").mkdir(parents=True)
    (folder / "one.jpg").write_bytes(picture(1))
    (folder / "one.txt").write_text("\ufeffa first picture\n", encoding="utf-8")
    (folder / "b.dir/my.two.PNG").write_bytes(picture(2))
    (folder / "b.dir/my.two.json").write_text(json.dumps({"captions": ["second", "two"], "width": 24}))
    (folder / "b.dir/three.webp").write_bytes(picture(3))
    (folder / "b.dir/three.txt").write_text("third")
    (folder / "b.dir/three.json").write_text(json.dumps({"caption": "third", "url": "x"}))
    (folder / ".hidden.txt").write_text("not part of it")
    built(ImageFolder(locate(str(folder))), tmp_path / "out")
    found = {sample.key: sample for sample in stored(tmp_path / "out")}
    assert set(found) == {"one", "b.dir/my_two", "b.dir/three"}
    assert found["one"].captions == ("a first picture",)
    assert (found["b.dir/my_two"].captions, found["b.dir/my_two"].fields) == (("second", "two"), {"width": 24})
    assert (found["b.dir/three"].captions, found["b.dir/three"].fields) == (("third",), {"url": "x"})


def test_an_image_with_an_entry_per_caption_gives_a_sample_per_entry(tmp_path: Path) -> None:
    source = write_list(tmp_path, 3)
    entries = json.loads((tmp_path / "list.json").read_text())
    (tmp_path / "list.json").write_text(json.dumps([entries[0], *entries, entries[0]]))
    assert built(source, tmp_path / "out").repeated_images == 2
    keys = [sample.key for sample in stored(tmp_path / "out")]
    assert keys == ["photos/000", "photos/000#2", "photos/001", "photos/002", "photos/000#3"]


def test_several_lists_and_an_image_root(tmp_path: Path) -> None:
    write_list(tmp_path / "a", 4)
    lines = [
        {"image": "photos/001.png", "caption": "again"},
        {"image": str(tmp_path / "a/photos/002.png"), "caption": "x"},
    ]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = tuple(locate(str(tmp_path / name)) for name in ("a/list.json", "more.jsonl"))
    built(AnnotationFiles(files, locate(str(tmp_path / "a"))), tmp_path / "out")
    keys = [sample.key for sample in stored(tmp_path / "out")]
    assert keys == [f"photos/{name}" for name in ("000", "001", "002", "003", "001#2", "002#2")]


def test_samples_that_cannot_be_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    source = write_list(tmp_path, COUNT, missing=(2,))
    entries = json.loads((tmp_path / "list.json").read_text())
    (tmp_path / "photos/004.png").write_bytes(b"")
    (tmp_path / "photos/005.png").write_bytes(b"<html>not found</html>")
    entries[6]["caption"] = [" ", ""]
    entries[7]["caption"] = 5
    entries[8]["caption"] = "half of a pair: \ud800"
    del entries[9]["image"]
    entries[10]["image"] = "http://example.org/10.png"
    (tmp_path / "list.json").write_text(json.dumps(entries))
    result = built(source, tmp_path / "out", BuildOptions(samples_per_shard=6, max_bad_share=0.5))
    listed = [json.loads(line) for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert {one["item"]: one["reason"] for one in listed} == {
        2: "image is missing",
        4: "image is empty",
        5: "image is corrupt",
        6: "caption is empty",
        7: "caption is not text",
        8: "text is not valid Unicode",
        9: "image is missing",
        10: "image address is not supported",
    }
    assert str(tmp_path / "photos/002.png") in listed[0]["detail"]
    assert result.samples == COUNT - len(listed) == len(stored(tmp_path / "out"))
    assert result.rejected["image is missing"] == 2


def test_a_shard_of_which_nothing_can_be_used_is_left_out(tmp_path: Path) -> None:
    source = write_list(tmp_path, 9, missing=(3, 4, 5))
    result = built(source, tmp_path / "out", BuildOptions(samples_per_shard=3, max_bad_share=0.5))
    assert list(read_index(locate(str(tmp_path / "out"))).shards) == ["shard-000000.tar", "shard-000002.tar"]
    assert (result.samples, result.shards) == (6, 2)


def test_too_many_bad_samples_fail_the_build_until_they_are_mended(tmp_path: Path) -> None:
    source = write_list(tmp_path, COUNT, missing=(1, 13))
    message = (
        r"least \d of 20 samples cannot be used \(\d image is missing\).*5.0%; the first is photos/0\d\d: image is"
    )
    with pytest.raises(DataSetError, match=message):
        built(source, tmp_path / "out", BuildOptions(samples_per_shard=6, max_bad_share=0.05))
    assert (tmp_path / "out/rejected.jsonl").exists()
    assert not (tmp_path / "out/index.parquet").exists()
    for number in (1, 13):
        (tmp_path / f"photos/{number:03d}.png").write_bytes(picture(number))
    result = built(source, tmp_path / "out", BuildOptions(samples_per_shard=6, max_bad_share=0.05))
    assert (result.samples, result.rejected) == (COUNT, {})
    assert not (tmp_path / "out/rejected.jsonl").exists()
    assert len(stored(tmp_path / "out")) == COUNT


@pytest.mark.parametrize("stop_after", range(1, 6))
def test_a_build_stopped_at_any_shard_goes_on_behind_it(tmp_path: Path, stop_after: int) -> None:
    source = write_list(tmp_path, 30)
    built(source, tmp_path / "whole")

    def stop(standing: ShardProgress) -> None:
        if standing.shards == stop_after:
            raise Stop

    with pytest.raises(Stop):
        build_annotated(source, locate(str(tmp_path / "out")), OPTIONS, stop)
    finished = JsonlLog(locate(str(tmp_path / "out/.building"))).read()
    assert len(finished) == stop_after
    times = {
        note["facts"]["shard"]: (tmp_path / "out" / note["facts"]["shard"]).stat().st_mtime_ns for note in finished
    }
    assert built(source, tmp_path / "out") == built(source, tmp_path / "whole")
    assert times == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times}
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out/.building").exists()


def test_a_shard_that_was_lost_since_is_made_again(tmp_path: Path) -> None:
    source = write_list(tmp_path, 30)
    calls = count()

    def stop(_: ShardProgress) -> None:
        if next(calls) == 3:
            raise Stop

    with pytest.raises(Stop):
        build_annotated(source, locate(str(tmp_path / "out")), OPTIONS, stop)
    first = JsonlLog(locate(str(tmp_path / "out/.building"))).read()[0]["facts"]["shard"]
    (tmp_path / "out" / first).write_bytes(b"cut short")
    built(source, tmp_path / "out")
    assert len(stored(tmp_path / "out")) == 30


BUILD_AND_DIE = """\
import os, signal, sys
from orchestrator.storage.location import locate
from orchestrator.stream.shards.build import BuildOptions, build_annotated
from orchestrator.stream.shards.lists.annotations import AnnotationFiles

def die(standing):
    if standing.shards == 3:
        os.kill(os.getpid(), signal.SIGKILL)

source = AnnotationFiles((locate(sys.argv[1]),))
build_annotated(source, locate(sys.argv[2]), BuildOptions(samples_per_shard=6, readers=2), die)
"""


def test_a_killed_process_is_taken_up_again(tmp_path: Path) -> None:
    source = write_list(tmp_path, 30)
    command = [sys.executable, "-c", BUILD_AND_DIE, str(tmp_path / "list.json"), str(tmp_path / "out")]
    assert subprocess.run(command, env=os.environ, timeout=300).returncode == -signal.SIGKILL
    assert not (tmp_path / "out/index.parquet").exists()
    (tmp_path / "out/.shard-000009.tar.draft").write_bytes(b"left behind")
    noted = JsonlLog(locate(str(tmp_path / "out/.building"))).read()
    assert noted
    times = {note["facts"]["shard"]: (tmp_path / "out" / note["facts"]["shard"]).stat().st_mtime_ns for note in noted}
    built(source, tmp_path / "out")
    assert times == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times}
    built(source, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".shard-*"))


def test_a_finished_build_is_left_as_it_is(tmp_path: Path) -> None:
    source = write_list(tmp_path, COUNT, missing=(3,))
    options = BuildOptions(samples_per_shard=6, max_bad_share=0.1)
    first = built(source, tmp_path / "out", options)
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert built(source, tmp_path / "out", options) == first
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == times


def test_a_changed_source_or_shape_is_refused(tmp_path: Path) -> None:
    source = write_list(tmp_path, COUNT)
    built(source, tmp_path / "out")
    with pytest.raises(DataSetError, match=r"something else \(samples_per_shard 7, was 6\); name another"):
        built(source, tmp_path / "out", BuildOptions(samples_per_shard=7))
    (tmp_path / "list.json").write_text('[{"image": "photos/000.png", "caption": "other"}]')
    with pytest.raises(DataSetError, match=r"something else \(source "):
        built(source, tmp_path / "out")
    assert len(stored(tmp_path / "out")) == COUNT


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    with pytest.raises(DataSetError, match=r"is not empty \(thesis.txt\) and was not begun by this command"):
        built(write_list(tmp_path, 2), tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no annotation file of a known form .it begins with ''"),
        ('"images"', "is no annotation file of a known form .it begins with 'images'"),
        ("[]", "has no images"),
        ('[{"image": "a.png", "caption": "x"}', "expected an object as item 1, found its end"),
        ('[{"image": "a.png", "caption": "x"', "item 0 is malformed JSON"),
        ('[{"image": "a.png"}, 5]', "expected an object as item 1, found '5'"),
        ("[{}] [{}]", "something behind the end"),
        ('{"images": [{"id": 1}], "annotations": []}', "1 of 1 samples cannot be used .1 caption is missing."),
        (b'[{"image": "\xff.png"}]', "is not UTF-8"),
    ],
)
def test_lists_that_cannot_be_used_are_explained(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "list.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataSetError, match=message):
        built(AnnotationFiles((locate(str(tmp_path / "list.json")),)), tmp_path / "out")


def test_sources_that_are_not_there_or_named_twice_are_explained(tmp_path: Path) -> None:
    write_list(tmp_path, 1)
    file = locate(str(tmp_path / "list.json"))
    with pytest.raises(FuserayError, match="named twice"):
        AnnotationFiles((file, file))
    with pytest.raises(FuserayError, match=r"nowhere.json: cannot be read: it does not exist"):
        built(AnnotationFiles((locate(str(tmp_path / "nowhere.json")),)), tmp_path / "out")
    with pytest.raises(FuserayError, match="nowhere: cannot be listed: it does not exist"):
        built(ImageFolder(locate(str(tmp_path / "nowhere"))), tmp_path / "out")


def test_two_images_that_would_share_captions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(picture(0))
    (tmp_path / "in/a.txt").write_text("which?")
    for name in ("a.png", "a.JPG", "a.TXT"):
        (tmp_path / "in" / name).write_bytes(picture(0))
        with pytest.raises(DataSetError, match=rf"a\.(jpg|TXT) and {name}|{name} and a\.(jpg|txt) would share a key"):
            built(ImageFolder(locate(str(tmp_path / "in"))), tmp_path / "out")
        (tmp_path / "in" / name).unlink()


def test_a_long_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.stream.shards.lists.json_text.BLOCK_BYTES", 7)
    source = write_list(tmp_path, 5)
    (tmp_path / "list.json").write_text((tmp_path / "list.json").read_text().replace("colours", "colôurs \U0001f5bc"))
    assert [item.image for item in source.items()] == [f"photos/{number:03d}.png" for number in range(5)]
    assert next(source.items()).record["caption"] == ["photo 0", "a patch of colôurs \U0001f5bc"]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("train2014/COCO_1.jpg", "train2014/COCO_1"),
        ("/export/x/a.b.jpg", "export/x/a_b"),
        ("../../up.jpg", "up"),
        ("s3://bucket/v1.0/c#2.png", "bucket/v1.0/c_2"),
        ("no_suffix", "no_suffix"),
    ],
)
def test_keys_are_what_tar_members_can_be_called(path: str, key: str) -> None:
    assert key_of(path) == key


def test_notes_are_written_at_once_and_then_every_few_seconds(tmp_path: Path) -> None:
    now = [0.0]
    place = locate(str(tmp_path / "notes"))
    journal = JsonlLog(place, clock=lambda: now[0])
    journal.add({"n": 1})
    journal.add({"n": 2})
    assert JsonlLog(place).read() == [{"n": 1}]
    now[0] = 6.0
    journal.add({"n": 3})
    assert JsonlLog(place).read() == [{"n": 1}, {"n": 2}, {"n": 3}]
    with (tmp_path / "notes/000001.jsonl").open("a") as file:
        file.write('{"n": cut off')
    assert len(JsonlLog(place).read()) == 3


def test_a_folder_of_other_files_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataSetError, match=r"no captions, but 1 .gif\.$"):
        built(ImageFolder(locate(str(tmp_path / "in"))), tmp_path / "out")
