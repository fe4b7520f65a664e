"""Columns of Parquet shards: by name, and by a type that can hold what they are for."""

from __future__ import annotations

import pyarrow as pa
import pytest

from orchestrator.stream.dataset.columns import Columns, can_hold
from orchestrator.stream.dataset.index import DataSetError

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


@pytest.mark.parametrize(
    "image_type",
    [
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.string(),
        pa.string_view(),
        HF_IMAGE,
        pa.struct([("path", pa.large_string())]),
        pa.list_(HF_IMAGE),
        pa.large_list(pa.binary()),
        pa.dictionary(pa.int32(), pa.binary()),
    ],
    ids=str,
)
def test_types_that_hold_images(image_type: pa.DataType) -> None:
    assert Columns.detect(schema(image=image_type, caption=pa.string()), {}, "p").image == "image"


@pytest.mark.parametrize(
    "image_type",
    [pa.int64(), pa.null(), pa.list_(pa.list_(pa.uint8())), pa.struct([("pixels", pa.binary())]), pa.float32()],
    ids=str,
)
def test_types_that_hold_none_are_refused_by_column_and_type(image_type: pa.DataType) -> None:
    with pytest.raises(DataSetError) as refusal:
        Columns.detect(schema(image=image_type, caption=pa.string()), {}, "p")
    assert f"the column 'image' is of type {image_type}, which cannot hold images" in str(refusal.value)


def test_another_column_is_taken_when_the_first_cannot_hold_it() -> None:
    columns = Columns.detect(schema(image=pa.int64(), jpg=pa.binary(), text=pa.string(), id=HF_IMAGE), {}, "p")
    assert (columns.image, columns.captions, columns.key) == ("jpg", "text", "")


def test_a_column_that_was_asked_for_must_fit() -> None:
    with pytest.raises(DataSetError, match="the column 'n' is of type int64, which cannot hold captions"):
        Columns.detect(schema(image=pa.binary(), n=pa.int64()), {"captions": "n"}, "p")


def test_columns_that_were_passed_over_are_known() -> None:
    both = schema(image=pa.binary(), caption=pa.string(), text=pa.string(), url=pa.string())
    columns = Columns.detect(both, {}, "p")
    assert (columns.captions, columns.passed_over(both)) == ("caption", ["text"])
    assert columns.names == ["image", "caption"]


@pytest.mark.parametrize("twice", ["image", "key"])
def test_a_name_that_is_there_twice_is_refused(twice: str) -> None:
    fields = [("image", pa.binary()), ("caption", pa.string()), ("key", pa.string())]
    with pytest.raises(DataSetError, match=f"has 2 columns with the name '{twice}'"):
        Columns.detect(pa.schema([*fields, (twice, dict(fields)[twice])]), {}, "p")


def test_other_shards_are_checked_for_types_too() -> None:
    columns = Columns.detect(schema(image=pa.binary(), caption=pa.string()), {}, "a")
    with pytest.raises(DataSetError, match=r"b: the column 'caption' is of type int64, which cannot hold captions"):
        columns.check(schema(image=pa.binary(), caption=pa.int64()), "b")


def test_fields_are_a_struct_or_text() -> None:
    assert can_hold("fields", pa.struct([("a", pa.int64())]))
    assert can_hold("fields", pa.string())
    assert not can_hold("fields", pa.list_(pa.int64()))
