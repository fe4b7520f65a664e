"""Image ids: kept, of one kind, one image each; and what becomes a sample where images have several captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import stored
from retrieval_lists import albef_rows, coco_image, document, write_json
from shards import picture

from orchestrator.storage.location import locate
from orchestrator.stream.dataset.index import DataSetError, ShardFormat
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import RawBatch, RawSample
from orchestrator.stream.shards.build import BuildOptions, build_annotated
from orchestrator.stream.shards.lists.annotations import AnnotationFiles
from orchestrator.stream.shards.lists.choices import SampleUnit, with_samples_per
from orchestrator.stream.shards.lists.image_ids import ImageIds, shared_values
from orchestrator.stream.shards.sources import Item, Source
from workloads.albef.config import AugmentConfig, TextConfig
from workloads.contract import declared_image_id, image_number
from workloads.transforms.pairs import IdentifiedPairTransform

ANYTHING = BuildOptions(max_bad_share=1)
ROWS = [*albef_rows(0), *albef_rows(1), *albef_rows(0, 3)[2:]]


def build(
    folder: Path, contents: Sequence[Any], unit: SampleUnit = "entry", options: BuildOptions = ANYTHING
) -> Source:
    files = [write_json(folder, content, f"{number}.json") for number, content in enumerate(contents)]
    source = with_samples_per(AnnotationFiles(tuple(locate(str(file)) for file in files)), unit)
    build_annotated(source, locate(str(folder / "out")), options)
    return source


def faults(folder: Path) -> dict[str, str]:
    listed = map(json.loads, (folder / "out/rejected.jsonl").read_text().splitlines())
    return {one["key"]: f"{one['reason']}: {one['detail']}" for one in listed}


def test_albefs_rows_are_samples_that_know_their_image(tmp_path: Path) -> None:
    build(tmp_path, [ROWS])
    found = stored(tmp_path / "out")
    assert [sample.key for sample in found] == [f"val2014/{key}" for key in ("0", "0#2", "1", "1#2", "0#3")]
    numbers = [image_number(sample.key, sample.fields) for sample in found]
    assert numbers == [numbers[0], numbers[0], numbers[2], numbers[2], numbers[0]]
    assert numbers[0] != numbers[2]


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_ids_reach_the_micro_batch_by_way_of_shards_and_readers(tmp_path: Path, shard_format: ShardFormat) -> None:
    build(tmp_path, [ROWS], options=BuildOptions(shard_format=shard_format))
    samples = stored(tmp_path / "out")
    raw = RawBatch(0, tuple(RawSample(n, 0, 0, n, "shard", sample) for n, sample in enumerate(samples)))
    transform = IdentifiedPairTransform(16, AugmentConfig(), TextConfig(tokenizer="minilm", max_tokens=8))
    image_ids = Decoder(transform, seed=1)(RawBatch.decode(raw.encode())).features["image_id"]
    assert (image_ids.shape, image_ids.dtype) == ((5,), np.int64)
    of_0, of_1 = (image_number("any", {"image_id": image_id}) for image_id in ("coco_1000", "coco_1001"))
    assert image_ids.tolist() == [of_0, of_0, of_1, of_1, of_0]


def test_samples_per_image_have_all_captions_of_their_rows(tmp_path: Path) -> None:
    rows = [{**row, "row": number, "split": "train"} for number, row in enumerate(ROWS)]
    build(tmp_path, [rows], "image")
    zero, one = stored(tmp_path / "out")
    assert zero.captions == ("Picture 0, sentence 0.", "Picture 0, sentence 1.", "Picture 0, sentence 1.")
    assert (zero.key, one.key) == ("val2014/0", "val2014/1")
    assert zero.fields == {"image": "val2014/0.png", "image_id": "coco_1000", "split": "train"}


def test_samples_per_image_are_the_same_as_those_of_albefs_test_lists(tmp_path: Path) -> None:
    entry = {"image": "val2014/0.png", "caption": [row["caption"] for row in albef_rows(0, 3)], "image_id": "coco_1000"}
    build(tmp_path / "rows", [albef_rows(0, 3)], "image")
    build(tmp_path / "entry", [[entry]])
    assert stored(tmp_path / "rows/out") == stored(tmp_path / "entry/out")


def test_rows_of_one_image_with_several_ids_are_rejected(tmp_path: Path) -> None:
    rows = [*albef_rows(0), {**albef_rows(0)[0], "image_id": "coco_1"}, *albef_rows(1)]
    build(tmp_path, [rows], "image")
    assert [sample.key for sample in stored(tmp_path / "out")] == ["val2014/1"]
    (fault,) = faults(tmp_path).values()
    assert fault.startswith("image id is ambiguous: entries of this image have the ids 'coco_1' and 'coco_1000'")


@pytest.mark.parametrize("unit", ["image", "caption"])
def test_entries_that_cannot_be_used_stay_apart_and_are_listed_once(tmp_path: Path, unit: SampleUnit) -> None:
    rows = [
        {"image": "0.png", "caption": 5},
        {"image": "0.png", "caption": ["a", " "]},
        {"caption": ["x", "y"]},
        {"caption": ["z"]},
        {"image": "1.png"},
        {"image": "2.png", "caption": ["b", "c"], "image_id": 1.5},
    ]
    build(tmp_path, [rows], unit)
    assert [(sample.captions, sample.image) for sample in stored(tmp_path / "out")] == [(("a",), picture(0))]
    reasons = [fault.partition(":")[0] for fault in map(str, faults_in_order(tmp_path))]
    assert reasons.count("caption is not text") == reasons.count("caption is missing") == 1
    assert reasons.count("image is missing") == (2 if unit == "image" else 3)
    assert reasons.count("image id is not valid") == (1 if unit == "image" else 2)


def faults_in_order(folder: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (folder / "out/rejected.jsonl").read_text().splitlines()]


def test_an_id_of_two_images_is_rejected_wherever_they_are_listed(tmp_path: Path) -> None:
    build(tmp_path, [[*albef_rows(0), *albef_rows(1)], [{**albef_rows(2)[0], "image_id": "coco_1000"}]])
    assert [sample.key for sample in stored(tmp_path / "out")] == ["val2014/1", "val2014/1#2"]
    found = faults(tmp_path)
    assert found["val2014/0"].endswith("'coco_1000' is the id of another image too; give each image an id of its own")
    assert "'coco_1000' is the id of val2014/0.png too" in found["val2014/2"]


def test_data_sets_with_a_name_may_number_their_images_alike(tmp_path: Path) -> None:
    coco = document(coco_image(0, cocoid=5))
    flickr = document(coco_image(1, cocoid=5, split="train"), dataset="flickr30k")
    build(tmp_path, [coco, flickr])
    zero, one = stored(tmp_path / "out")
    assert zero.fields["image_id"] == one.fields["image_id"] == 5
    assert image_number(zero.key, zero.fields) != image_number(one.key, one.fields)


def test_ids_of_two_kinds_in_a_file_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    rows = [*albef_rows(0), {"image": "1.png", "caption": "x", "image_id": 7}]
    with pytest.raises(DataSetError, match=r"0.json: image ids are of two kinds: item 0 .*'coco_1000', a text, and it"):
        build(tmp_path, [rows])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [True, [7], {"a": 1}, 7.5])
def test_what_is_no_id_is_rejected(tmp_path: Path, value: object) -> None:
    build(tmp_path, [[{"image": "0.png", "caption": "x", "image_id": value}, {"image": "1.png", "caption": "y"}]])
    assert [sample.key for sample in stored(tmp_path / "out")] == ["1"]
    assert faults(tmp_path)["0"].startswith(f"image id is not valid: image_id is {value!r}; write a whole number")


def test_cocos_captions_bring_their_id_along(tmp_path: Path) -> None:
    coco = {"images": [{"id": 7, "file_name": "0.png"}], "annotations": [{"image_id": "7", "id": 1, "caption": "x"}]}
    build(tmp_path, [coco])
    assert stored(tmp_path / "out")[0].fields == {"file_name": "0.png", "image_id": 7}


def test_two_ids_with_one_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "orchestrator.stream.shards.lists.image_ids.image_number", lambda _, fields: len(declared_image_id(fields))
    )
    ids = ImageIds()
    ids.add(Item("a", "a.png", {"image_id": "aa"}))
    ids.add(Item("a", "a.png", {"image_id": "aa"}))
    assert ids.ambiguous("list") == frozenset()
    ids.add(Item("b", "b.png", {"image_id": "bb"}))
    with pytest.raises(DataSetError, match="list: two of its image ids have the same 63-bit number"):
        ids.ambiguous("list")


def test_values_are_shared_when_two_owners_have_them() -> None:
    values, owners = np.array([[3, 1, 3, 2, 1, 2], [7, 8, 9, 7, 8, 6]], dtype=np.uint64)
    assert shared_values(values, owners).tolist() == [2, 3]
    assert shared_values(values[:0], owners[:0]).tolist() == []
