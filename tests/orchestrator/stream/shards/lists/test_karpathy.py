"""Karpathy's splits of COCO and Flickr30k as they come: one split, all captions of an image together, ids kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from annotated import stored
from retrieval_lists import SPLITS, coco_image, document, flickr_image, write_json

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError, ShardFormat
from orchestrator.stream.shards.build import BuildOptions, BuildResult, build_annotated
from orchestrator.stream.shards.lists.annotations import AnnotationFiles
from orchestrator.stream.shards.lists.choices import SplitChoice, with_samples_per
from workloads.contract import Sample

COCO = document(*(coco_image(number) for number in range(len(SPLITS))))
FLICKR = document(*(flickr_image(number) for number in range(len(SPLITS))), dataset="flickr30k")
ANYTHING = BuildOptions(max_bad_share=1)


def built(folder: Path, content: Any, split: SplitChoice, options: BuildOptions = ANYTHING) -> BuildResult:
    source = AnnotationFiles((locate(str(write_json(folder, content))),), split=split)
    return build_annotated(source, locate(str(folder / "out")), options)


def keys(folder: Path) -> list[str]:
    return [sample.key for sample in stored(folder / "out")]


def faults(folder: Path) -> dict[str, tuple[str, str]]:
    listed = map(json.loads, (folder / "out/rejected.jsonl").read_text().splitlines())
    return {one["key"]: (one["reason"], one["detail"]) for one in listed}


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_an_image_comes_with_its_sentences_as_written_and_its_id(tmp_path: Path, shard_format: ShardFormat) -> None:
    built(tmp_path, COCO, SplitChoice("train"), BuildOptions(shard_format=shard_format))
    first = stored(tmp_path / "out")[0]
    assert first.captions == ("Picture 0, sentence 0.", "Picture 0, sentence 1.", "Picture 0, sentence 1.")
    assert first.image == (tmp_path / "val2014/0.png").read_bytes()
    assert first.fields == {
        "dataset": "coco",
        "split": "train",
        "image_id": 1000,
        "cocoid": 1000,
        "imgid": 0,
        "sentids": [0, 1, 2],
        "filepath": "val2014",
        "filename": "0.png",
    }


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        (SplitChoice("train"), [0, 1, 4]),
        (SplitChoice("train", restval=False), [0, 4]),
        (SplitChoice("restval"), [1]),
        (SplitChoice("val"), [2]),
        (SplitChoice("test"), [3, 5]),
        (SplitChoice("test", restval=False), [3, 5]),
    ],
    ids=str,
)
def test_a_split_is_taken_and_train_brings_restval_along(
    tmp_path: Path, split: SplitChoice, numbers: list[int]
) -> None:
    built(tmp_path, COCO, split)
    assert keys(tmp_path) == [f"val2014/{number}" for number in numbers]


def test_flickrs_images_stand_beside_the_file_and_imgid_is_their_id(tmp_path: Path) -> None:
    built(tmp_path, FLICKR, SplitChoice("train"))
    found: list[Sample] = stored(tmp_path / "out")
    assert [(sample.key, sample.fields["image_id"]) for sample in found] == [("0", 0), ("1", 1), ("4", 4)]
    assert {sample.fields["dataset"] for sample in found} == {"flickr30k"}


def test_a_file_of_one_split_needs_no_choice(tmp_path: Path) -> None:
    built(tmp_path, document(coco_image(3), coco_image(5), dataset=None), SplitChoice())
    assert keys(tmp_path) == ["val2014/3", "val2014/5"]
    assert "dataset" not in stored(tmp_path / "out")[0].fields


@pytest.mark.parametrize(
    ("content", "split", "message"),
    [
        (COCO, "", r"list.json: has the splits train \(2\), test \(2\), restval \(1\), val \(1\); choose one with"),
        (COCO, "dev", r"list.json: has no split 'dev'; it has train \(2\), test \(2\).*Change --split"),
        (FLICKR, "restval", "has no split 'restval'; it has train"),
        (document(coco_image(0, split=None)), "train", r'item 0 \(val2014/0.png\) has no text "split"'),
        ([{"image": "0.png", "caption": "a"}], "test", r'item 0 \(0.png\) has no text "split"; leave --split out'),
        ({**COCO, "images": []}, "", "has no images"),
        (
            {"images": [{"filename": "0.png", "captions": ["x"]}]},
            "",
            "no known form .it has 'images'.*Karpathy's splits",
        ),
    ],
)
def test_a_split_that_is_not_there_or_not_chosen_is_told(
    tmp_path: Path, content: Any, split: str, message: str
) -> None:
    with pytest.raises(DataSetError, match=message):
        built(tmp_path, content, SplitChoice(split))
    assert not (tmp_path / "out").exists()


def test_another_split_of_the_same_file_is_another_build(tmp_path: Path) -> None:
    built(tmp_path, COCO, SplitChoice("test"))
    for other in (SplitChoice("val"), SplitChoice("train", restval=False), SplitChoice("train")):
        with pytest.raises(DataSetError, match=r"built from something else \(source "):
            built(tmp_path, COCO, other)
    assert built(tmp_path, COCO, SplitChoice("test")).samples == 2


def test_images_that_cannot_be_used_are_listed_with_the_reason(tmp_path: Path) -> None:
    content = document(
        coco_image(0, sentences=[]),
        coco_image(1, sentences=None, split="train"),
        coco_image(2, sentences=[{"tokens": ["no", "raw"]}], split="train"),
        coco_image(3, sentences="a text", split="train"),
        coco_image(4, filename="gone.png"),
        coco_image(5, cocoid=[5], split="train"),
        coco_image(0, filename=None, cocoid=1),
        coco_image(0, filename="a.png", cocoid=77),
        coco_image(0, filename="b.png", cocoid=77),
        coco_image(2, split="train", cocoid=2),
    )
    result = built(tmp_path, content, SplitChoice("train"))
    assert keys(tmp_path) == ["val2014/2#2"]
    found = faults(tmp_path)
    assert {key: reason for key, (reason, _) in found.items()} == {
        "val2014/0": "caption is missing",
        "val2014/1": "caption is missing",
        "val2014/2": "caption is malformed",
        "val2014/3": "caption is malformed",
        "val2014/gone": "image is missing",
        "val2014/5": "image id is not valid",
        "": "image is missing",
        "val2014/a": "image id is ambiguous",
        "val2014/b": "image id is ambiguous",
    }
    assert result.rejected["image is missing"] == 2
    assert found["val2014/2"][1] == "sentence 0 has no text 'raw'"
    assert found["val2014/a"][1] == "2 images have the id 77; give each its own"
    assert "cocoid is [5]" in found["val2014/5"][1] or "image_id is [5]" in found["val2014/5"][1]


def test_samples_per_caption_stand_in_rounds_and_keep_the_id(tmp_path: Path) -> None:
    source = AnnotationFiles((locate(str(write_json(tmp_path, COCO))),), split=SplitChoice("train"))
    build_annotated(with_samples_per(source, "caption"), locate(str(tmp_path / "out")), ANYTHING)
    found = stored(tmp_path / "out")
    assert [(sample.key, sample.captions) for sample in found] == [
        ("val2014/0", ("Picture 0, sentence 0.",)),
        ("val2014/1", ("Picture 1, sentence 0.",)),
        ("val2014/4", ("Picture 4, sentence 0.",)),
        ("val2014/0#2", ("Picture 0, sentence 1.",)),
        ("val2014/1#2", ("Picture 1, sentence 1.",)),
        ("val2014/4#2", ("Picture 4, sentence 1.",)),
        ("val2014/0#3", ("Picture 0, sentence 1.",)),
    ]
    assert [sample.fields["image_id"] for sample in found] == [1000, 1001, 1004, 1000, 1001, 1004, 1000]
