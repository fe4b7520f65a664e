"""RandAugment (Cubuk et al., arXiv 1909.13719) with the ten operations and ranges of the official ALBEF code.

An operation takes uint8 [H, W, 3] and returns the same shape; geometric operations, by OpenCV, fill uncovered pixels
with grey.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from workloads.albef.config import RandAugmentConfig
from workloads.contract import KeyedRandom

cv2.setNumThreads(0)

MAX_MAGNITUDE = 10
FILL = (128, 128, 128)

Operation = Callable[[np.ndarray, float], np.ndarray]
"""`operation(image_HWC, strength)`; strength is magnitude / 10, with a random sign for geometric operations."""


def rand_augment(image_HWC: np.ndarray, config: RandAugmentConfig, draw: KeyedRandom) -> np.ndarray:
    """Apply operations drawn with replacement, each with the configured probability.

    Args:
        image_HWC: uint8, channels last.
        config: number of operations, their magnitude and probability.
        draw: key of this sample's augmentation.
    """
    if not config.enabled:
        return image_HWC
    generator = draw.numpy()
    names = list(OPERATIONS)
    for index in generator.integers(len(names), size=config.operations):
        applied, sign = generator.random() < config.probability, 1.0 if generator.random() < 0.5 else -1.0
        if applied:
            image_HWC = apply_operation(names[index], image_HWC, config.magnitude, sign)
    return image_HWC


def apply_operation(name: str, image_HWC: np.ndarray, magnitude: float, sign: float = 1.0) -> np.ndarray:
    """Apply one operation.

    Args:
        name: a key of `OPERATIONS`.
        image_HWC: uint8, channels last.
        magnitude: strength from 0 to 10.
        sign: +1 or -1, the direction of a shear, translation or rotation.
    """
    strength = magnitude / MAX_MAGNITUDE
    return OPERATIONS[name](image_HWC, strength * sign if name in SIGNED else strength)


def identity(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Return the image unchanged."""
    return image_HWC


def auto_contrast(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Stretch each channel to the full range 0 to 255."""
    return _per_channel(image_HWC, _stretch_table)


def equalize(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Flatten each channel's histogram."""
    return _per_channel(image_HWC, _equalize_table)


def brightness(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Multiply all values by 0.1 to 1.9 (strength 0 to 1)."""
    table = (np.arange(256, dtype=np.float32) * _enhance_factor(strength)).clip(0, 255).astype(np.uint8)
    return cv2.LUT(image_HWC, table)


def sharpness(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Blend with a smoothed copy by a factor of 0.1 to 1.9; the outermost pixels are unchanged."""
    factor = _enhance_factor(strength)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
    smooth_HWC = cv2.filter2D(image_HWC, -1, kernel)
    blended_HWC = cv2.addWeighted(image_HWC, factor, smooth_HWC, 1 - factor, 0)
    sharpened_HWC = image_HWC.copy()
    sharpened_HWC[1:-1, 1:-1] = blended_HWC[1:-1, 1:-1]
    return sharpened_HWC


def shear_x(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Shift each row in proportion to its distance from the top, by at most 0.3 pixels a row."""
    return _warp(image_HWC, [[1, 0.3 * strength, 0], [0, 1, 0]])


def shear_y(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Shift each column in proportion to its distance from the left, by at most 0.3 pixels a column."""
    return _warp(image_HWC, [[1, 0, 0], [0.3 * strength, 1, 0]])


def translate_x(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Shift the image sideways by at most 10 pixels, whatever its size."""
    return _warp(image_HWC, [[1, 0, -10 * strength], [0, 1, 0]])


def translate_y(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Shift the image up or down by at most 10 pixels, whatever its size."""
    return _warp(image_HWC, [[1, 0, 0], [0, 1, -10 * strength]])


def rotate(image_HWC: np.ndarray, strength: float) -> np.ndarray:
    """Rotate about the centre by at most 30 degrees."""
    height, width = image_HWC.shape[:2]
    return _warp(image_HWC, cv2.getRotationMatrix2D((width / 2, height / 2), 30 * strength, 1))


OPERATIONS: dict[str, Operation] = {
    "Identity": identity,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
}
SIGNED = frozenset({"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"})


def _enhance_factor(strength: float) -> float:
    return 1.8 * strength + 0.1


def _warp(image_HWC: np.ndarray, matrix: object) -> np.ndarray:
    height, width = image_HWC.shape[:2]
    return cv2.warpAffine(
        image_HWC, np.asarray(matrix, dtype=np.float64), (width, height), flags=cv2.INTER_LINEAR, borderValue=FILL
    )


def _per_channel(image_HWC: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    tables = [table_of(_histogram(image_HWC, channel)) for channel in range(image_HWC.shape[2])]
    return cv2.LUT(image_HWC, np.stack(tables, axis=-1)[None])


def _histogram(image_HWC: np.ndarray, channel: int) -> np.ndarray:
    counts: np.ndarray = cv2.calcHist([image_HWC], [channel], None, [256], [0, 256])
    return counts.reshape(256).astype(np.int64)


def _stretch_table(counts: np.ndarray) -> np.ndarray:
    used = np.flatnonzero(counts)
    low, high = int(used[0]), int(used[-1])
    if high <= low:
        return np.arange(256, dtype=np.uint8)
    scale = 255 / (high - low)
    return (np.arange(256) * scale - low * scale).clip(0, 255).astype(np.uint8)


def _equalize_table(counts: np.ndarray) -> np.ndarray:
    step = int(counts[counts != 0][:-1].sum()) // 255
    if step == 0:
        return np.arange(256, dtype=np.uint8)
    below = np.concatenate([[step // 2], counts[:-1]])
    return (np.cumsum(below) // step).clip(0, 255).astype(np.uint8)
