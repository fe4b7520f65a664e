from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from workloads.albef.config import RandAugmentConfig
from workloads.contract import KeyedRandom
from workloads.transforms.randaugment import FILL, OPERATIONS, SIGNED, apply_operation, rand_augment

KEY = KeyedRandom((1, "rand_augment"))
DEFAULT = RandAugmentConfig()


@pytest.fixture
def image() -> np.ndarray:
    row, column = np.mgrid[0:48, 0:64]
    channels = [40 + row * 3, 60 + column * 2, 30 + row + 4 * (column % 7)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def test_there_are_the_ten_operations() -> None:
    assert len(OPERATIONS) == 10
    assert set(OPERATIONS) > SIGNED


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_operation_keeps_shape_type_and_input(name: str, image: np.ndarray) -> None:
    before = image.copy()
    result = apply_operation(name, image, 7)
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(result, apply_operation(name, image, 7))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "Identity"])
def test_an_operation_changes_the_image(name: str, image: np.ndarray) -> None:
    assert not np.array_equal(apply_operation(name, image, 7), image)


def test_identity_changes_nothing(image: np.ndarray) -> None:
    np.testing.assert_array_equal(apply_operation("Identity", image, 7), image)


@pytest.mark.parametrize("name", sorted(SIGNED))
def test_geometry_without_strength_changes_nothing(name: str, image: np.ndarray) -> None:
    np.testing.assert_array_equal(apply_operation(name, image, 0), image)


def test_auto_contrast_agrees_with_pillow(image: np.ndarray) -> None:
    expected = np.asarray(ImageOps.autocontrast(Image.fromarray(image)))
    assert np.abs(apply_operation("AutoContrast", image, 7).astype(int) - expected).max() <= 1


def test_equalize_agrees_with_pillow(image: np.ndarray) -> None:
    expected = np.asarray(ImageOps.equalize(Image.fromarray(image)))
    np.testing.assert_array_equal(apply_operation("Equalize", image, 7), expected)


@pytest.mark.parametrize("name", ["AutoContrast", "Equalize"])
def test_a_flat_image_stays_flat(name: str) -> None:
    flat = np.full((8, 9, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(apply_operation(name, flat, 7), flat)


def test_brightness_at_seven_multiplies_by_1_36(image: np.ndarray) -> None:
    expected = (image.astype(np.float32) * 1.36).clip(0, 255)
    assert np.abs(apply_operation("Brightness", image, 7) - expected).max() <= 1


def test_sharpness_keeps_the_border_and_steepens_edges() -> None:
    step = np.full((9, 10, 3), 100, dtype=np.uint8)
    step[:, 5:] = 150
    sharp = apply_operation("Sharpness", step, 7)
    np.testing.assert_array_equal(sharp[0], step[0])
    assert sharp[4, 4, 0] < 100
    assert sharp[4, 5, 0] > 150


@pytest.mark.parametrize(("name", "sign", "axis"), [("TranslateX", 1, 1), ("TranslateX", -1, 1), ("TranslateY", 1, 0)])
def test_translation_at_seven_moves_seven_pixels_and_fills_with_grey(
    name: str, sign: int, axis: int, image: np.ndarray
) -> None:
    moved = np.moveaxis(apply_operation(name, image, 7, sign), axis, 0)
    original = np.moveaxis(image, axis, 0)
    if sign < 0:
        moved, original = moved[::-1], original[::-1]
    np.testing.assert_array_equal(moved[:-7], original[7:])
    assert (moved[-7:] == FILL).all()


def test_shear_at_seven_shifts_a_row_by_0_21_of_its_number() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, 10:13] = 255
    sheared = apply_operation("ShearX", image, 7)
    assert sheared[0, :, 0].argmax() == 10
    assert abs(int(sheared[50, :, 0].argmax()) - (10 + 0.21 * 50)) <= 1


def test_rotation_by_opposite_signs_mirrors() -> None:
    image = np.zeros((33, 33, 3), dtype=np.uint8)
    image[:, 16] = 255
    left, right = apply_operation("Rotate", image, 7, 1), apply_operation("Rotate", image, 7, -1)
    top_left, top_right = left[4, 8:26, 0].argmax() + 8, right[4, 8:26, 0].argmax() + 8
    assert abs((16.5 - 12.5 * np.tan(np.radians(21))) - top_left) <= 1.5
    assert abs((16.5 + 12.5 * np.tan(np.radians(21))) - top_right) <= 1.5


def test_draws_depend_on_the_key_alone(image: np.ndarray) -> None:
    results = [rand_augment(image, DEFAULT, KEY.child(number)) for number in range(30)]
    again = [rand_augment(image, DEFAULT, KEY.child(number)) for number in range(30)]
    assert all(np.array_equal(one, two) for one, two in zip(results, again, strict=True))
    assert len({result.tobytes() for result in results}) > 10


def test_each_operation_is_applied_half_the_time(image: np.ndarray) -> None:
    changed = sum(rand_augment(image, DEFAULT, KEY.child(number)) is not image for number in range(400))
    # two draws, each passed over with probability 1/2, or applied as the identity with 1/20
    assert abs(changed / 400 - (1 - 0.55**2)) < 0.08


def test_disabled_or_improbable_augmentation_changes_nothing(image: np.ndarray) -> None:
    for config in (RandAugmentConfig(enabled=False), RandAugmentConfig(probability=0), RandAugmentConfig(operations=0)):
        np.testing.assert_array_equal(rand_augment(image, config, KEY), image)
