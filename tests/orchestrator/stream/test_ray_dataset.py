"""Micro-batches survive their way to the workers, through Ray's object store and out of it."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import MicroBatch, RawBatch, RawSample, SkippedSample
from orchestrator.stream.ray_dataset import Row, pack_block, unpack_block
from workloads.contract import Features, KeyedRandom, Sample

SKIPPED = SkippedSample(41, "s3://b/a.tar", "\u00e4", "image is corrupt", "no\nmarker")
PICTURES = MicroBatch(
    5,
    ("a", "b"),
    {"image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "length": np.array([3, 1], dtype=np.int32)},
    (SKIPPED,),
    77,
)
WEIGHTS = MicroBatch(6, ("c",), {"weight": np.array([[0.5]], dtype=np.float64)}, (), 78)
NOTHING_USABLE = MicroBatch(7, (), {}, (SKIPPED,), 79)
AS_READ = RawBatch(8, (RawSample(9, 0, 0, 4, "s3://b/a.tar", Sample("k", b"image", ("text",), {})),))


def _transform(sample: Sample, draw: KeyedRandom) -> Features:
    return {"size": np.asarray(len(sample.image)), "draw": np.asarray(draw.seed())}


DECODER = Decoder(_transform, seed=1)


def _travelled(block: pa.Table) -> pa.Table:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(block, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(content, buffers=[bytes(buffer) for buffer in buffers])  # noqa: S301 - made two lines above


def _assert_equal(result: MicroBatch, expected: MicroBatch) -> None:
    assert (result.number, result.keys, result.skipped, result.fingerprint) == (
        expected.number,
        expected.keys,
        expected.skipped,
        expected.fingerprint,
    )
    assert result.features.keys() == expected.features.keys()
    for name, array in expected.features.items():
        assert result.features[name].dtype == array.dtype
        np.testing.assert_array_equal(result.features[name], array)


@pytest.mark.parametrize(
    "rows",
    [
        [PICTURES, WEIGHTS, NOTHING_USABLE, AS_READ, None],
        [None, AS_READ, PICTURES],
        [NOTHING_USABLE],
        [AS_READ],
        [None, None],
    ],
    ids=["all kinds", "as read first", "nothing usable", "as read", "empty"],
)
def test_a_block_gives_back_what_was_packed(rows: list[Row]) -> None:
    block = pack_block(rows)
    assert block.num_rows == len(rows)
    opened = [parcel.open(DECODER) for parcel in unpack_block(_travelled(block))]
    expected = [DECODER(row) if isinstance(row, RawBatch) else row for row in rows if row is not None]
    for result, batch in zip(opened, expected, strict=True):
        _assert_equal(result, batch)


def test_packing_copies_no_features_and_what_is_opened_is_writable() -> None:
    block = pack_block([PICTURES])
    (parcel,) = unpack_block(block)
    shared = np.frombuffer(parcel.cells["feature/image"], dtype=np.uint8)
    assert np.shares_memory(shared, PICTURES.features["image"])
    opened = parcel.open(DECODER)
    opened.features["image"][:] = 0
    assert PICTURES.features["image"].max() == 23
