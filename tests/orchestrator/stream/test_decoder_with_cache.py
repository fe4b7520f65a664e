"""A run trains on the same bits with and without the cache of decoded images, whatever is wrong with its samples."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from damage import huge_png, photo, write_data_set
from shards import picture, samples
from staged import PATIENT, StagedToy
from streams import SEED, make_reader
from toy_workload import ToyTransform

from orchestrator.stream.dataset.index import ShardFormat
from orchestrator.stream.dataset.sidecar import Unreadable
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import MicroBatch, RawBatch, RawSample
from orchestrator.stream.ray_dataset import ReadBlock, ReadPlan, unpack_block
from workloads.albef.config import AugmentConfig, TextConfig
from workloads.contract import BadSample, Sample, Transform
from workloads.transforms.pairs import PairTransform


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FUSERAY_DECODED_CACHE", str(tmp_path / "decoded"))
    return tmp_path / "decoded"


def pair_transform() -> PairTransform:
    """The training transform of image-text models."""
    return PairTransform((32, 32), AugmentConfig(), TextConfig(tokenizer="minilm", max_tokens=8))


@cache  # photographs are noise, another each time
def raw_batch() -> RawBatch:
    """Good samples, and one of each kind of damage between them."""
    damaged = [
        Sample("cut", photo()[:700], ("a dog",)),
        Sample("empty", b"", ("a dog",)),
        Sample("other", b"GIF89a and then something else", ("a dog",)),
        Sample("huge", huge_png(20_000, 4), ("a dog",)),
        Sample("silent", photo(), ("...",)),
        Sample("both", photo()[:700], ("...",)),
        Unreadable("gone", BadSample("image is missing", "members: txt")),
    ]
    contents = [one for both in zip(samples(7), damaged, strict=True) for one in both]
    contents += [Sample("photo", photo(), ("a photo", "another")), Sample("again", picture(3), ("the third",))]
    return RawBatch(3, tuple(RawSample(n, 0, 1, n, "shard", content) for n, content in enumerate(contents)))


def assert_same(one: MicroBatch, other: MicroBatch) -> None:
    """Check that two micro-batches are equal to the bit."""
    assert (one.number, one.keys, one.skipped, one.fingerprint) == (
        other.number,
        other.keys,
        other.skipped,
        other.fingerprint,
    )
    assert one.features.keys() == other.features.keys()
    for name, array in one.features.items():
        assert array.dtype == other.features[name].dtype
        np.testing.assert_array_equal(array, other.features[name])


@pytest.mark.parametrize("make", [pair_transform, StagedToy])
def test_features_and_bad_samples_are_the_same_to_the_bit(make: Callable[[], Transform]) -> None:
    expected = Decoder(make(), SEED)(raw_batch())
    assert expected.samples >= 9
    for _ in range(3):
        assert_same(Decoder(make(), SEED, PATIENT)(raw_batch()), expected)


def test_another_seed_uses_the_same_pixels_and_draws_anew() -> None:
    Decoder(pair_transform(), SEED, PATIENT)(raw_batch())
    other = Decoder(pair_transform(), SEED + 1, PATIENT)(raw_batch())
    assert_same(other, Decoder(pair_transform(), SEED + 1)(raw_batch()))
    assert not np.array_equal(other.features["image"], Decoder(pair_transform(), SEED)(raw_batch()).features["image"])


def _epoch(folders: Sequence[Path], transform: StagedToy) -> None:
    """Run through data sets with the cache, and compare with a run without it."""
    reader = make_reader(*map(str, folders))
    for raw in reader.read(range(len(folders) * 5)):
        assert_same(Decoder(transform, SEED, PATIENT)(raw), Decoder(StagedToy(), SEED)(raw))


@pytest.mark.parametrize("shard_format", ["webdataset", "parquet"])
def test_a_changed_data_set_brings_no_old_pixels(tmp_path: Path, shard_format: ShardFormat) -> None:
    old = list(samples(40))
    new = [Sample(one.key, picture(100 + number), one.captions) for number, one in enumerate(old)]
    first, second, third = StagedToy(), StagedToy(), StagedToy()
    _epoch([write_data_set(tmp_path / "old", [old], shard_format)], first)
    _epoch([write_data_set(tmp_path / "new", [new], shard_format)], second)
    _epoch([tmp_path / "old", tmp_path / "new"], third)
    assert (len(first.decoded), len(second.decoded), len(third.decoded)) == (40, 40, 0)


def test_shard_formats_share_what_they_have_in_common(tmp_path: Path) -> None:
    tar, parquet = StagedToy(), StagedToy()
    _epoch([write_data_set(tmp_path / "tar", [list(samples(40))], "webdataset")], tar)
    _epoch([write_data_set(tmp_path / "parquet", [list(samples(40))], "parquet")], parquet)
    assert (len(tar.decoded), len(parquet.decoded)) == (40, 0)


def test_readers_and_workers_both_use_it(tmp_path: Path) -> None:
    reader = make_reader(str(write_data_set(tmp_path / "data", [list(samples(40))], "webdataset")))
    transform, numbers = StagedToy(), (0, 1, 2, 3, 4)
    decoder = Decoder(transform, SEED, PATIENT)
    for share in (0.5, 1.0, 0.0):
        (block,) = ReadBlock(ReadPlan(reader, decoder, share), numbers, len(numbers))()
        arrived = [parcel.open(decoder) for parcel in unpack_block(block)]
        for batch, raw in zip(arrived, reader.read(numbers), strict=True):
            assert_same(batch, Decoder(StagedToy(), SEED)(raw))
    assert len(transform.decoded) == 40


def test_a_decoder_travels_small() -> None:
    decoder = Decoder(pair_transform(), SEED, PATIENT)
    decoder(raw_batch())
    assert len(pickle.dumps(decoder)) < len(pickle.dumps(Decoder(pair_transform(), SEED))) + 200


def test_workloads_without_stages_leave_no_trace(folder: Path) -> None:
    images = [Decoder(ToyTransform(), SEED, cache)(raw_batch()).features["image"] for cache in (PATIENT, None)]
    np.testing.assert_array_equal(*images)
    assert not folder.exists()
