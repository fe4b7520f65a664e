from __future__ import annotations

import io
import pickle

import numpy as np
import PIL
import pytest
from PIL import Image, features

from workloads.albef.config import AugmentConfig, RandAugmentConfig, TextConfig
from workloads.contract import BadSample, KeyedRandom, Sample, StagedTransform
from workloads.transforms.images import channels_first, decode, resize
from workloads.transforms.pairs import EvaluationTransform, PairTransform

TEXT = TextConfig(tokenizer="minilm", max_tokens=8)
KEY = KeyedRandom((0, 3))


def picture(width: int = 50, height: int = 40) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


SAMPLE = Sample("one", picture(), ("A red dog!", "Two cats.", "..."))
TRANSFORM = PairTransform((32, 32), AugmentConfig(), TEXT)


def test_features_have_the_promised_shapes_and_types() -> None:
    features = TRANSFORM(SAMPLE, KEY)
    assert {name: (array.shape, array.dtype.name) for name, array in features.items()} == {
        "image": ((3, 32, 32), "uint8"),
        "input_ids": ((8,), "int32"),
        "length": ((), "int32"),
    }


def test_ids_are_zero_padded_after_length() -> None:
    features = TRANSFORM(SAMPLE, KEY)
    length = int(features["length"])
    assert (features["input_ids"][:length] > 0).all()
    assert (features["input_ids"][length:] == 0).all()


def test_equal_keys_give_equal_features() -> None:
    first, second = TRANSFORM(SAMPLE, KEY), TRANSFORM(SAMPLE, KEY)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["image"], TRANSFORM(SAMPLE, KEY.child("other"))["image"])


def test_a_pickled_transform_is_small_and_the_same() -> None:
    TRANSFORM(SAMPLE, KEY)
    packed = pickle.dumps(TRANSFORM)
    assert len(packed) < 5_000
    assert np.array_equal(pickle.loads(packed)(SAMPLE, KEY)["image"], TRANSFORM(SAMPLE, KEY)["image"])  # noqa: S301


def test_every_usable_caption_is_picked_in_turn() -> None:
    evaluation = EvaluationTransform((32, 32), TEXT)
    expected = {evaluation.tokens(caption).input_ids.tobytes() for caption in SAMPLE.captions[:2]}
    picked = {TRANSFORM(SAMPLE, KEY.child(number))["input_ids"].tobytes() for number in range(30)}
    assert picked == expected


def test_the_purposes_draw_independently() -> None:
    plain = AugmentConfig(rand_augment=RandAugmentConfig(enabled=False))
    unflipped = AugmentConfig(flip=0.0, rand_augment=RandAugmentConfig(enabled=False))
    images = [PairTransform((32, 32), config, TEXT)(SAMPLE, KEY.child(5))["image"] for config in (plain, unflipped)]
    assert np.array_equal(images[0], images[1]) or np.array_equal(images[0], images[1][:, :, ::-1])


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample("k", picture(), ("...",)), "caption is empty"),
        (Sample("k", picture(), ()), "caption is empty"),
        (Sample("k", picture()[:100], ("dog",)), "image is truncated"),
        (Sample("k", b"", ("dog",)), "image is empty"),
    ],
)
def test_unusable_samples_are_bad_samples(sample: Sample, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        TRANSFORM(sample, KEY)
    assert caught.value.reason == reason


def test_the_stages_one_after_the_other_give_the_same() -> None:
    assert isinstance(TRANSFORM, StagedTransform)
    for number in range(5):
        whole = TRANSFORM(SAMPLE, KEY.child(number))
        staged = TRANSFORM.finish(SAMPLE, TRANSFORM.pixels(SAMPLE.image), KEY.child(number))
        for name, array in whole.items():
            np.testing.assert_array_equal(staged[name], array)


def test_the_decoding_is_named_after_the_libraries_that_do_it() -> None:
    assert f"pillow={PIL.__version__}" in TRANSFORM.decoding
    assert f"libjpeg_turbo={features.version('libjpeg_turbo')}" in TRANSFORM.decoding


def test_evaluation_resizes_the_whole_image() -> None:
    transform = EvaluationTransform((24, 24), TEXT)
    np.testing.assert_array_equal(transform.image(SAMPLE), channels_first(resize(decode(SAMPLE.image), (24, 24))))


def test_evaluation_lists_cleaned_captions_and_pieces() -> None:
    transform = EvaluationTransform((24, 24), TEXT)
    assert transform.captions(SAMPLE) == ("a red dog", "two cats")
    pieces = ["[CLS]", "un", "##fl", "##uf", "##fa", "##ble", "dogs"]
    assert transform.pieces(transform.tokens("Unfluffable dogs")) == pieces
