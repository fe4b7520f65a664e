"""Curves made ready for drawing: finite, smoothed, thinned."""

from __future__ import annotations

import numpy as np

from orchestrator.report.model import Curve


def finite(curve: Curve) -> Curve:
    """Return the points of a curve whose value is a finite number."""
    kept = [(step, value) for step, value in zip(curve.steps, curve.values, strict=True) if np.isfinite(value)]
    return Curve(tuple(step for step, _ in kept), tuple(value for _, value in kept))


def smooth(curve: Curve, share: float = 0.02) -> Curve:
    """Return a curve averaged with a Gaussian window, renormalised at both ends so that it has no lag.

    Args:
        curve: finite values at roughly even steps.
        share: standard deviation of the window as a share of the curve's points.
    """
    width = share * len(curve.values)
    if width < 0.5:
        return curve
    reach = min(int(3 * width) + 1, (len(curve.values) - 1) // 2)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    total = np.convolve(np.asarray(curve.values), kernel, mode="same")
    weight = np.convolve(np.ones(len(curve.values)), kernel, mode="same")
    return Curve(curve.steps, tuple((total / weight).tolist()))


def thin(curve: Curve, points: int = 800) -> Curve:
    """Return at most `points` points of a curve: the lowest and the highest of each stretch, so peaks stay."""
    if len(curve.values) <= points:
        return curve
    values = np.asarray(curve.values)
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(values)), points // 2):
        kept |= {int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])}
    return Curve(tuple(curve.steps[i] for i in sorted(kept)), tuple(curve.values[i] for i in sorted(kept)))


def ends(curve: Curve, share: float = 0.02) -> tuple[float, float]:
    """Return the means of the first and of the last `share` of a curve's points, at least one point each.

    Raises:
        ValueError: when the curve is empty.
    """
    if not curve.values:
        raise ValueError("an empty curve has no first and last value")
    points = max(1, round(share * len(curve.values)))
    return float(np.mean(curve.values[:points])), float(np.mean(curve.values[-points:]))
