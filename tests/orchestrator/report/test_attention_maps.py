from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from orchestrator.report.images import overlay, scale_stops
from orchestrator.report.model import Curve


def flat(colour: str, size: tuple[int, int] = (40, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float64)


def test_overlay_keeps_the_pictures_proportions() -> None:
    assert pixels(overlay(flat("white"), np.zeros((8, 8)), side=100)).shape == (50, 100, 3)


def test_overlay_is_brightest_where_the_map_is() -> None:
    weights = np.zeros((4, 4))
    weights[:2, :2] = 1
    mixed = pixels(overlay(flat("grey"), weights, side=80)).sum(axis=-1)
    assert mixed[:15, :30].mean() > 1.5 * mixed[25:, 50:].mean()


def test_lightness_rises_with_weight() -> None:
    levels = [pixels(overlay(flat("grey"), np.full((2, 2), weight))).mean() for weight in (0, 0.25, 0.5, 0.75, 1)]
    assert levels == sorted(levels)
    lightness = [sum(int(stop[i : i + 2], 16) for i in (1, 3, 5)) for stop in scale_stops()]
    assert lightness == sorted(lightness)


def test_the_image_shines_through() -> None:
    weights = np.full((2, 2), 0.5)
    assert pixels(overlay(flat("white"), weights)).mean() > pixels(overlay(flat("black"), weights)).mean() + 50


def test_enlarging_is_smooth() -> None:
    ramp = np.linspace(0, 1, 4)[None].repeat(4, axis=0)
    red = pixels(overlay(flat("black", (64, 64)), ramp, side=160))[80, :, 0]
    assert np.abs(np.diff(red)).max() < 8


@pytest.mark.parametrize("weights", [np.zeros(4), np.zeros((1, 4, 4)), np.full((2, 2), np.nan)])
def test_maps_that_are_not_maps_are_refused(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite array"):
        overlay(flat("white"), weights)


def test_values_check_their_lengths() -> None:
    with pytest.raises(ValueError, match="got 1 for 2 steps"):
        Curve((1, 2), (0.5,))
