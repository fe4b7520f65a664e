"""What a check found, and how to mend it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NoReturn, TypeVar

from orchestrator.config.document import Document, KeyPath
from orchestrator.config.errors import Finding as Fault
from orchestrator.config.errors import FuserayError, RecipeError
from orchestrator.config.loading import unknown_key

Level = Literal["pass", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Args:
        name: what was checked.
        level: "pass", "warning" (work can go on) or "error" (it cannot).
        found: what is there.
        fix: what to do about it; empty when nothing needs to be done.
    """

    name: str
    level: Level
    found: str
    fix: str = ""


def passed(name: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(name, "pass", found)


def warned(name: str, found: str, fix: str) -> Finding:
    """Return something that work can go on with."""
    return Finding(name, "warning", found, fix)


def failed(name: str, found: str, fix: str) -> Finding:
    """Return something that has to be mended first."""
    return Finding(name, "error", found, fix)


# What can go wrong with a cluster.


class ClusterError(FuserayError):
    """A cluster cannot be started, reached or ended; the message names it and says what to do."""


# Waiting for something that may never answer.


Result = TypeVar("Result")


def within(seconds: float, action: Callable[[], Result]) -> Result:
    """Return an action's result, or give it up after a while; it is left behind in its thread.

    Raises:
        TimeoutError: no answer in time.
        Exception: whatever the action raises.
    """
    results: list[Result] = []
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            results.append(action())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return results[0]


def side_by_side(actions: Sequence[Callable[[], Result]]) -> list[Future[Result]]:
    """Start actions that have patience of their own, all at once; their results come in the same order."""
    pool = ThreadPoolExecutor(max(1, len(actions)), thread_name_prefix="checks")
    results = [pool.submit(action) for action in actions]
    pool.shutdown(wait=False)
    return results


# All that is wrong with a file, gathered before it is refused.


class Faults:
    """The faults of one document.

    Args:
        document: knows the lines.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: list[Fault] = []

    def add(self, key_path: KeyPath, said: str) -> None:
        """Note a fault at a key; a second one in the same words changes nothing."""
        dotted = ".".join(str(part) for part in key_path)
        finding = Fault(self._document.location(key_path), f"{dotted}: {said}" if dotted else said)
        if finding not in self._found:
            self._found.append(finding)

    def add_all(self, findings: Iterable[Fault]) -> None:
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

    def __iter__(self) -> Iterator[Fault]:
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


def _line(finding: Fault) -> int:
    return int(finding.location.rpartition(":")[2])
