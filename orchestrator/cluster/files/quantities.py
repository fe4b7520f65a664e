"""Quantities as Kubernetes writes them."""

from __future__ import annotations

import re
from typing import Any

QUANTITY = re.compile(r"^(?P<number>\d+(\.\d+)?)(?P<suffix>m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
FACTORS = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def quantity(value: Any) -> float | None:
    """Return a quantity such as 500m, 4 or 16Gi as a number; None when it is not one."""
    found = QUANTITY.match(str(value))
    return float(found["number"]) * FACTORS.get(found["suffix"] or "", 1.0) if found else None
