"""What was read survives its way to the workers, and is decoded there to the same as anywhere else."""

import numpy as np
from shards import picture

from orchestrator.stream.dataset.sidecar import Unreadable
from orchestrator.stream.decoder import Decoder
from orchestrator.stream.micro_batch import RawBatch, RawSample, fingerprint
from workloads.contract import BadSample, Features, KeyedRandom, Sample

GOOD = RawSample(7, 1, 2, 3, "s3://b/a.tar", Sample("ä", picture(1), ("one", "two"), {"tags": ["x"], "n": 1}))
BAD = RawSample(8, 0, 2, 4, "s3://b/b.tar", Unreadable("k", BadSample("image is missing", "members: txt")))


def _transform(sample: Sample, draw: KeyedRandom) -> Features:
    if sample.captions[0] == "bad":
        raise BadSample("caption is bad")
    return {"length": np.asarray(len(sample.image)), "draw": np.asarray(draw.seed())}


def test_a_batch_comes_out_as_it_went_in() -> None:
    batch = RawBatch(5, (GOOD, BAD))
    result = RawBatch.decode(batch.encode())
    assert result.number == 5
    assert result.samples[0] == GOOD
    assert result.samples[1].content.key == "k"
    assert isinstance(result.samples[1].content, Unreadable)
    assert str(result.samples[1].content.fault) == "image is missing: members: txt"


def test_an_empty_batch_comes_out_empty() -> None:
    assert RawBatch.decode(RawBatch(9, ()).encode()) == RawBatch(9, ())


def test_unusable_samples_are_listed_and_move_no_other() -> None:
    refused = RawSample(9, 0, 0, 5, "s", Sample("z", b"", ("bad",)))
    decoder = Decoder(_transform, seed=3)
    batch = decoder(RawBatch(5, (BAD, GOOD, refused)))
    alone = decoder(RawBatch(5, (GOOD,)))
    assert batch.keys == ("ä",)
    assert [(skip.position, skip.key, skip.reason) for skip in batch.skipped] == [
        (8, "k", "image is missing"),
        (9, "z", "caption is bad"),
    ]
    np.testing.assert_array_equal(batch.features["draw"], alone.features["draw"])
    assert batch.fingerprint == fingerprint(["k", "ä", "z"])


def test_fingerprints_tell_orders_apart_and_fit_a_float() -> None:
    one, other = fingerprint(["a", "b"]), fingerprint(["b", "a"])
    assert one != other
    assert int(float(one)) == one
