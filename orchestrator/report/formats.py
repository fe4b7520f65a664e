"""Formats numbers, sizes, durations and times for people."""

from __future__ import annotations

import math
from datetime import UTC, datetime

TIMES = "\N{MULTIPLICATION SIGN}"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(share: float) -> str:
    """Write a share in [0, 1] as a percentage with one decimal; what would round to nothing is `<0.1%`."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{100 * share:.1f}%"


def count(number: int) -> str:
    """Write a whole number with thousands separators."""
    return f"{number:,}"


def figure(number: float) -> str:
    """Write a measured number with three significant digits, never as a bare exponent."""
    if not math.isfinite(number):
        return "not finite"
    magnitude = abs(number)
    if magnitude >= 100:
        return f"{number:,.0f}"
    if magnitude and magnitude < 1e-3:
        return _scientific(number)
    decimals = 3 if magnitude < 1 else 2 if magnitude < 10 else 1
    return f"{number:.{decimals}f}"


def times(factor: float) -> str:
    """Write how many times one number is another, for example `12×`."""
    return f"{factor:.1f}{TIMES}" if factor < 10 else f"{factor:,.0f}{TIMES}"


def duration(seconds: float) -> str:
    """Write a time span with its two largest units, for example `4 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def size(size_bytes: int) -> str:
    """Write a number of bytes in decimal units."""
    amount = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"


def power_of_ten(exponent: int) -> str:
    """Write a power of ten with a raised exponent."""
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def short_count(number: float) -> str:
    """Write an axis tick: 800, 1.5k, 20k, 3M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:g}{unit}"
    return f"{number:g}"


def moment(iso: str) -> str:
    """Write an ISO 8601 time for people, in UTC."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _scientific(number: float) -> str:
    mantissa, exponent = f"{number:.2e}".split("e")
    return f"{float(mantissa):g} {TIMES} {power_of_ten(int(exponent))}"
