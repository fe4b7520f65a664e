"""Values that Ray and Kubernetes read differently from how they look.

Both read YAML 1.1, in which an unquoted `no`, `on` or `0644` is not text and `12:30` is a number.
"""

from __future__ import annotations

from typing import Any

import yaml

from orchestrator.cluster.files.faults import Faults
from orchestrator.config.document import KeyPath
from orchestrator.config.errors import SpecError


def read_as_their_tools_do(text: str, origin: str) -> list[Any]:
    """Return the documents as YAML 1.1 has them; empty ones are left out.

    Raises:
        SpecError: those tools could not read it.
    """
    try:
        return [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise SpecError(f"{origin}: Ray and Kubernetes cannot read this, which is no YAML 1.1: {error}") from error


def refuse_ambiguous(ours: Any, theirs: Any, faults: Faults, key_path: KeyPath = ()) -> None:
    """Note every value that the two versions of YAML read differently."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        named = {str(key): value for key, value in theirs.items()}
        for key, value in ours.items():
            refuse_ambiguous(value, named.get(key), faults, (*key_path, key))
    elif isinstance(ours, list) and isinstance(theirs, list):
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            refuse_ambiguous(mine, other, faults, (*key_path, index))
    elif ours != theirs and str(theirs) != str(ours):
        faults.add(
            key_path, f"is read as {theirs!r} by whoever gets this file; quote it, or write true, false or digits"
        )
