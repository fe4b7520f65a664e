"""JSON that carries its own digest, for the files that no other file vouches for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.storage.run_folder import json_bytes
from orchestrator.train.checkpoints.errors import DamagedError

SEAL = "sha256"


def seal(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON with their digest beside them."""
    return json_bytes({**values, SEAL: _digest(values)})


def is_sealed(values: Mapping[str, Any]) -> bool:
    """Return whether values are those that were sealed."""
    return bool(values.get(SEAL) == _digest({key: value for key, value in values.items() if key != SEAL}))


def parse_object(content: bytes, uri: str) -> dict[str, Any]:
    """Return the values of a JSON object.

    Raises:
        DamagedError: it is none.
    """
    try:
        values = json.loads(content)
    except ValueError as error:
        raise DamagedError(f"{uri}: is damaged ({error}).") from error
    if not isinstance(values, dict):
        raise DamagedError(f"{uri}: is damaged (it holds no JSON object).")
    return values


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_bytes(values)).hexdigest()
