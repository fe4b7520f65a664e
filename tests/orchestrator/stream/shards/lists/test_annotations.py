"""The forms in which images are listed with their captions, and what is told where a file is in none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from annotated import stored
from shards import picture

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError
from orchestrator.stream.shards.build import BuildOptions, build_annotated
from orchestrator.stream.shards.lists.annotations import AnnotationFiles

ANYTHING = BuildOptions(max_bad_share=1)


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))


def built(tmp_path: Path, text: str | bytes, name: str = "list") -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Build from a file; return the captions and the reasons of rejected items, both by key."""
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    out = tmp_path / "out"
    build_annotated(AnnotationFiles((locate(str(tmp_path / name)),)), locate(str(out)), ANYTHING)
    rejected = out / "rejected.jsonl"
    lines = [json.loads(line) for line in rejected.read_text().splitlines()] if rejected.exists() else []
    samples = stored(out) if (out / "shard-000000.tar").exists() else []
    return {sample.key: sample.captions for sample in samples}, {line["key"]: line["reason"] for line in lines}


def lines(*records: Mapping[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


COCO = {
    "info": {},
    "images": [{"id": 7, "file_name": "0.png", "height": 24}, {"id": 8, "file_name": "1.png"}],
    "annotations": [
        {"image_id": 7, "id": 1, "caption": "x y"},
        {"image_id": "8", "id": 2, "caption": "one"},
        {"image_id": 7, "id": 3, "caption": "y z"},
    ],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("coco.json", json.dumps(COCO)),
        ("cc3m.tsv", "x y\t0.png\ny z\t0.png\none\t1.png\n"),
        ("captions.tsv", "image\tcaption\r\n0.png\tx y\r\n0.png\ty z\r\n1.png\tone"),
        ("captions.csv", 'title,split,filepath\n"x y",a,0.png\ny z,a,0.png\none,a,1.png\n'),
        (
            "metadata.jsonl",
            lines(*({"file_name": f"{n}.png", "text": t} for n, t in ((0, "x y"), (0, "y z"), (1, "one")))),
        ),
        ("mapping.json", json.dumps({"0.png": ["x y", "y z"], "1.png": "one"})),
        (
            "list.txt",
            json.dumps([{"image": "0.png", "captions": ["x y", "y z"]}, {"image": "1.png", "caption": "one"}]),
        ),
        (
            "both",
            lines({"image": "0.png", "captions": ["x y"], "caption": "y z"}, {"image": "1.png", "caption": "one"}),
        ),
    ],
)
def test_every_form_gives_the_images_with_their_captions(tmp_path: Path, name: str, text: str) -> None:
    captions, rejected = built(tmp_path, text, name)
    assert rejected == {}
    together: dict[str, tuple[str, ...]] = {}
    for key, texts in captions.items():
        together[key.partition("#")[0]] = together.get(key.partition("#")[0], ()) + texts
    assert together == {"0": ("x y", "y z"), "1": ("one",)}


def test_an_object_alone_in_its_file_is_a_line_of_json_lines(tmp_path: Path) -> None:
    assert built(tmp_path, lines({"image": "0.png", "caption": "x"}))[0] == {"0": ("x",)}


def test_a_caption_is_taken_before_a_text_which_stays_a_field(tmp_path: Path) -> None:
    assert built(tmp_path, lines({"image": "0.png", "caption": "a dog", "text": "seen on a sign"}))[0] == {
        "0": ("a dog",)
    }
    (sample,) = stored(tmp_path / "out")
    assert sample.fields["text"] == "seen on a sign"


def test_a_name_without_a_value_hides_no_other(tmp_path: Path) -> None:
    records = (
        {"image": "0.png", "captions": None, "caption": "one"},
        {"image": None, "file_name": "1.png", "caption": None, "text": "two"},
    )
    assert built(tmp_path, lines(*records)) == ({"0": ("one",), "1": ("two",)}, {})


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"image": "1.png", "caption": "x", "caption": "y"}', "json is malformed"),
        ('{"image": "1.png", "caption": "x", "more": [{"a": 1, "a": 2}]}', "json is malformed"),
        (f'{{"image": "1.png", "caption": "x", "hash": {"9" * 5000}}}', "json is malformed"),
        ('{"image": "1.png", "caption": "so nice \\ud83d"}', "text is not valid Unicode"),
        ('{"image": "s3://[foo/1.png", "caption": "x"}', "image address is not valid"),
        ('{"image": "s3://me:secret@bucket/1.png", "caption": "x"}', "image address is not valid"),
        ('{"image": "ftp://host/1.png", "caption": "x"}', "image address is not supported"),
        (f'{{"image": "{"a" * 5000}.png", "caption": "x"}}', "image is missing"),
        ('{"image": "1.png/2.png", "caption": "x"}', "image is missing"),
        ('{"image": ".", "caption": "x"}', "image is missing"),
        ('{"img": "1.png", "caption": "x"}', "image is missing"),
    ],
)
def test_one_odd_entry_is_rejected_and_the_others_are_built(tmp_path: Path, broken: str, reason: str) -> None:
    text = "\n".join([json.dumps({"image": "0.png", "caption": "a"}), broken, '{"image": "2.png", "caption": "b"}'])
    captions, rejected = built(tmp_path, text)
    assert captions == {"0": ("a",), "2": ("b",)}
    assert list(rejected.values()) == [reason]


def test_a_colon_in_a_path_is_no_scheme(tmp_path: Path) -> None:
    (tmp_path / "a:b.png").write_bytes(picture(9))
    assert built(tmp_path, json.dumps({"a:b.png": "colon"}), "m.json") == ({"a:b": ("colon",)}, {})


def test_what_is_there_twice_or_belongs_to_nothing_is_rejected(tmp_path: Path) -> None:
    document = json.dumps(COCO).replace('"id": 8', '"id": 7').replace('"image_id": "8"', '"image_id": 9')
    assert built(tmp_path, document) == (
        {},
        {"0": "image id is ambiguous", "1": "image id is ambiguous", "image_id 9": "image is missing"},
    )


def test_a_path_that_is_there_twice_is_rejected(tmp_path: Path) -> None:
    assert built(tmp_path, '{"0.png": "a", "1.png": "b", "0.png": "c"}') == (
        {"1": ("b",)},
        {"0": "caption is ambiguous"},
    )


def test_a_row_without_all_columns_is_rejected(tmp_path: Path) -> None:
    assert built(tmp_path, "a thing\t0.png\n\nanother\n\t1.png\n", "t.tsv") == (
        {"0": ("a thing",)},
        {"line 3": "row is malformed", "1": "caption is empty"},
    )


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.json", '{"version": 1, "data": {}}', r"no known form \(it has 'version', 'data'\); expected a JSON list"),
        ("a.json", "{}", r"no known form \(it has nothing\)"),
        ("a.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": []}]}', "none has a 'caption'"),
        ("a.json", '{"images": [], "images": [], "annotations": []}', "has 'images' twice"),
        ("a.tsv", "one\ttwo\tthree\n", r"known form \(it begins with 'one\\ttwo\\tthree'\); expected .* a table"),
        ("a.tsv", "0.png\t1.png\n", "is no annotation file of a known form"),
        ("a.csv", "path,url,caption\n", "several columns may be the image: path, url; rename all but one"),
        ("a.csv", "image,caption,x,x\n", "has the column 'x' twice"),
        ("notes.txt", "to do: build shards\n", "it begins with 'to do: build shards'"),
        ("a.parquet", b"PAR1\x15\x04\x15\xff", "is not UTF-8 text"),
    ],
)
def test_other_files_are_refused_with_what_was_found(tmp_path: Path, name: str, text: str | bytes, found: str) -> None:
    with pytest.raises(DataSetError, match=found):
        built(tmp_path, text, name)
    assert not (tmp_path / "out").exists()


def test_a_large_document_is_read_though_its_items_would_be_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.stream.shards.lists.json_text.BLOCK_BYTES", 16)
    monkeypatch.setattr("orchestrator.stream.shards.lists.json_text.MAX_ITEM_CHARACTERS", 64)
    assert list(built(tmp_path, json.dumps(COCO))[0]) == ["0", "1"]
