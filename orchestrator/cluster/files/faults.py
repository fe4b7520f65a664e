"""All that is wrong with a file, gathered before it is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NoReturn

from orchestrator.config.document import Document, KeyPath
from orchestrator.config.errors import Finding, RecipeError
from orchestrator.config.loading import unknown_key


class Faults:
    """The faults of one document.

    Args:
        document: knows the lines.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: list[Finding] = []

    def add(self, key_path: KeyPath, said: str) -> None:
        """Note a fault at a key; a second one in the same words changes nothing."""
        dotted = ".".join(str(part) for part in key_path)
        finding = Finding(self._document.place(key_path), f"{dotted}: {said}" if dotted else said)
        if finding not in self._found:
            self._found.append(finding)

    def add_all(self, findings: Iterable[Finding]) -> None:
        """Note faults that know their places already."""
        self._found.extend(findings)

    def refuse_unknown(self, key_path: KeyPath, values: Any, known: Iterable[str]) -> None:
        """Note every key of a mapping that is not a known one; what is no mapping is left alone."""
        names = list(known)
        for key in mapping(values):
            if key not in names:
                self.add((*key_path, key), unknown_key(key, names))

    def __bool__(self) -> bool:
        return bool(self._found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)


def refuse_all(faults: Iterable[Faults]) -> NoReturn:
    """Refuse a file.

    Raises:
        RecipeError: with everything that was noted, in the order of the lines.
    """
    raise RecipeError(sorted(chain.from_iterable(faults), key=_line))


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """Return a list as it is, and an empty one for anything else."""
    return value if isinstance(value, list) else []


def _line(finding: Finding) -> int:
    return int(finding.place.rpartition(":")[2])
