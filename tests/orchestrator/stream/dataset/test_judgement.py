"""What makes a stored sample unusable, and that nothing else than the sample suffers."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shards import index_folder, picture
from wild import struct, tar

from orchestrator.storage.location import locate
from orchestrator.stream.dataset import webdataset
from orchestrator.stream.dataset.samples import ShardRows, read_samples
from orchestrator.stream.dataset.sidecar import Content, Unreadable
from workloads.contract import Sample

PNG = picture(0)


def read(folder: Path) -> list[Content]:
    """Index a folder with one shard, and read all of its samples."""
    place = locate(str(folder))
    index = index_folder(place)
    return read_samples(place, index, [ShardRows(place / index.shards[0], range(index.total))])[0]


def reason(content: Content) -> str:
    return content.fault.reason if isinstance(content, Unreadable) else ""


def of_members(folder: Path, members: list[tuple[str, bytes]]) -> Content:
    tar(folder / "a.tar", members)
    (content,) = read(folder)
    return content


def of_row(folder: Path, **columns: Any) -> list[Content]:
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return read(folder)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("0.png", PNG), ("0.PNG", PNG), ("0.txt", b"x")], "member is repeated"),
        ([("0.png", PNG), ("0.jpg", PNG), ("0.txt", b"x")], "image is ambiguous"),
        ([("0.png", PNG), ("0.txt", b" \n")], "caption is empty"),
        ([("0.png", b""), ("0.txt", b"x")], "image is empty"),
        ([("0.png", PNG), ("0.json", b'{"caption": "a", "caption": "b"}')], "json is malformed"),
        ([("0.png", PNG), ("0.json", b'{"a": {"b": "\\ude00"}, "caption": "x"}')], "text is not valid Unicode"),
        ([("0.png", PNG), ("0.json", b'{"\\ud800": 1, "caption": "x"}')], "text is not valid Unicode"),
    ],
)
def test_members_that_make_a_sample_bad(tmp_path: Path, members: list[tuple[str, bytes]], expected: str) -> None:
    assert reason(of_members(tmp_path, members)) == expected


@pytest.mark.parametrize(
    ("members", "captions"),
    [
        ([("0.json", b'\xef\xbb\xbf{"caption": "x"}')], ("x",)),
        ([("0.json", b'{"captions": null, "caption": "x"}')], ("x",)),
        ([("0.json", b'{"captions": ["x", "y", null], "caption": "y z"}')], ("x", "y", "y z")),
        ([("0.json", b'{"caption": "\\ud83d\\ude00"}')], ("\U0001f600",)),
        ([("0.txt", b""), ("0.json", b'{"caption": "x"}')], ("", "x")),
        ([("__MACOSX/._0.jpg", b"\0"), (".DS_Store", b"\0"), ("0.txt", b"x")], ("x",)),
    ],
)
def test_captions_are_found_where_they_are(
    tmp_path: Path, members: list[tuple[str, bytes]], captions: tuple[str, ...]
) -> None:
    content = of_members(tmp_path, [("0.png", PNG), *members])
    assert isinstance(content, Sample)
    assert content.captions == captions


def test_names_that_differ_in_what_cannot_be_decoded_are_two_samples(tmp_path: Path) -> None:
    members = [("caf\xe9.png", PNG), ("caf\xe9.txt", b"x"), ("caf\xe8.png", PNG), ("caf\xe8.txt", b"y")]
    tar(tmp_path / "a.tar", members, format=tarfile.GNU_FORMAT, encoding="latin-1")
    assert [(one.key, reason(one)) for one in read(tmp_path)] == [("caf\ufffd", "")] * 2


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://[x/1.png", "image address is not valid"),
        ("s3://user:word@bucket/1.png", "image address is not valid"),
        ("https://host/1.png", "image address is not supported"),
        ("data:image/png;base64,AAAA", "image address is not supported"),
        ("a\0b.png", "image address is not valid"),
        ("x" * 5000, "image is missing"),
        ("0.png/1.png", "image is missing"),
        (".", "image is missing"),
        ("12:30.png", ""),
    ],
)
def test_an_odd_address_costs_one_sample(tmp_path: Path, address: str, expected: str) -> None:
    for name in ("0.png", "12:30.png"):
        (tmp_path / name).write_bytes(PNG)
    odd, sound = of_row(tmp_path, url=[address, "0.png"], caption=["x", "y"])
    assert isinstance(sound, Sample)
    assert reason(odd) == expected


def test_lists_of_images_have_one_each(tmp_path: Path) -> None:
    images = pa.array([[struct(0)], [struct(0), struct(1)], []])
    one, two, none = of_row(tmp_path, images=images, caption=["x"] * 3)
    assert isinstance(one, Sample)
    assert [reason(two), reason(none)] == ["image is ambiguous", "image is missing"]
    assert isinstance(two, Unreadable)
    assert "2 images in a list, column 'images' of type list<" in two.fault.detail


def test_text_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    captions = pa.array([b"\xff", b"fine"], pa.binary())
    keys = ["a", "b"]
    bad, good = of_row(tmp_path, image=[PNG, PNG], caption=captions, key=keys)
    assert (bad.key, reason(bad)) == ("a", "text is not UTF-8")
    assert isinstance(good, Sample)


def test_fields_of_a_struct_are_plain_values(tmp_path: Path) -> None:
    fields = pa.array([{"when": None, "raw": b"\0", "n": 3}], pa.struct([("raw", pa.binary()), ("n", pa.int64())]))
    (content,) = of_row(tmp_path, image=[PNG], caption=["x"], json=fields)
    assert isinstance(content, Sample)
    assert content.fields == {"raw": "b'\\x00'", "n": 3}


def test_a_sample_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_SAMPLE_BYTES", 40_000)
    tar(tmp_path / "a.tar", [("0.png", bytes(150_000)), ("0.txt", b"x"), ("1.png", PNG), ("1.txt", b"x")])
    large, sound = read(tmp_path)
    assert reason(large) == "sample is too large"
    assert isinstance(sound, Sample)
