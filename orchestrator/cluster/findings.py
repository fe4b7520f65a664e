"""Findings of checks, faults of cluster files, the error of clusters, and calls with a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NoReturn, TypeVar

from orchestrator.config.document import Document
from orchestrator.config.errors import Finding as Fault
from orchestrator.config.errors import FuserayError, RecipeError
from orchestrator.config.loading import unknown_key
from orchestrator.config.yaml_text import KeyPath

Level = Literal["pass", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Args:
        name: what was checked.
        level: "pass", "warning" (training can start) or "error" (it cannot).
        found: what the check found.
        fix: how to fix it; empty when nothing has to be fixed.
    """

    name: str
    level: Level
    found: str
    fix: str = ""


def passed(name: str, found: str) -> Finding:
    """Return a finding of level "pass"."""
    return Finding(name, "pass", found)


def warned(name: str, found: str, fix: str) -> Finding:
    """Return a finding of level "warning"."""
    return Finding(name, "warning", found, fix)


def failed(name: str, found: str, fix: str) -> Finding:
    """Return a finding of level "error"."""
    return Finding(name, "error", found, fix)


class ClusterError(FuserayError):
    """A cluster cannot be started, reached or shut down; the message names it and says what to do."""


Result = TypeVar("Result")


def with_timeout(seconds: float, action: Callable[[], Result]) -> Result:
    """Run an action in a daemon thread and return its result; after a timeout, the thread is abandoned.

    Args:
        seconds: the timeout.
        action: takes no arguments.

    Raises:
        TimeoutError: the action did not return in time.
        Exception: any that the action raises.
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


def run_concurrently(actions: Sequence[Callable[[], Result]]) -> list[Future[Result]]:
    """Start all actions at once, each in its own thread; return their futures in the same order.

    Args:
        actions: each has a timeout of its own.
    """
    pool = ThreadPoolExecutor(max(1, len(actions)), thread_name_prefix="checks")
    results = [pool.submit(action) for action in actions]
    pool.shutdown(wait=False)
    return results


class Faults:
    """The faults of one document of a cluster file; all are collected before the file is rejected.

    Args:
        document: knows the line of each key.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._faults: list[Fault] = []

    def add(self, key_path: KeyPath, message: str) -> None:
        """Add a fault at a key, unless the key has a fault with the same message already."""
        dotted = ".".join(str(part) for part in key_path)
        fault = Fault(self._document.location(key_path), f"{dotted}: {message}" if dotted else message)
        if fault not in self._faults:
            self._faults.append(fault)

    def add_all(self, faults: Iterable[Fault]) -> None:
        """Add faults that have their file and line already."""
        self._faults.extend(faults)

    def add_unknown_keys(self, key_path: KeyPath, values: Any, known: Iterable[str]) -> None:
        """Add a fault for every unknown key of a mapping; values that are not a mapping are ignored."""
        names = list(known)
        for key in mapping_or_empty(values):
            if key not in names:
                self.add((*key_path, key), unknown_key(key, names))

    def __bool__(self) -> bool:
        return bool(self._faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)


def raise_faults(faults: Iterable[Faults]) -> NoReturn:
    """Reject a file.

    Raises:
        RecipeError: with all faults, in the order of their lines.
    """
    raise RecipeError(sorted(chain.from_iterable(faults), key=_line))


def mapping_or_empty(value: Any) -> dict[str, Any]:
    """Return a mapping unchanged, and an empty one for any other value."""
    return value if isinstance(value, dict) else {}


def list_or_empty(value: Any) -> list[Any]:
    """Return a list unchanged, and an empty one for any other value."""
    return value if isinstance(value, list) else []


def _line(fault: Fault) -> int:
    return int(fault.location.rpartition(":")[2])
