"""Sending many things at once, and apart from each other when some of them are refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from orchestrator.track.faults import is_refusal

NAMES_SHOWN = 5

Item = TypeVar("Item")


class Refusals:
    """What MLflow refuses for good: told once, counted ever after.

    Args:
        tell: takes messages for the user.
        explain: returns what an error says, without secrets.
    """

    def __init__(self, tell: Callable[[str], None], explain: Callable[[object], str] = str) -> None:
        self._tell = tell
        self._explain = explain
        self._counts: dict[tuple[str, str], int] = {}

    @property
    def count(self) -> int:
        """How many values were left out so far."""
        return sum(self._counts.values())

    @property
    def names(self) -> list[str]:
        """Their names."""
        return sorted({name for _, name in self._counts})

    def leave_out(self, kind: str, name: str, values: int) -> bool:
        """Return whether a name of a kind is refused; if so, count values that are not sent."""
        if (kind, name) in self._counts:
            self._counts[kind, name] += values
        return (kind, name) in self._counts

    def add(self, kind: str, refused: Mapping[str, tuple[Exception, int]]) -> None:
        """Remember names that were refused and tell of them, those with one reason together.

        Args:
            kind: what they name, in the plural.
            refused: by name, the reason and how many values were not sent.
        """
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, (error, values) in refused.items():
            self._counts[kind, name] = values
            reasons[self._explain(error)].append(name)
        for reason, names in reasons.items():
            self._tell(f"MLflow refuses the {kind} {_listed(names)}, which are left out: {reason}")


def send_apart(
    groups: Mapping[str, Sequence[Item]], send: Callable[[list[Item]], object], refusals: Refusals, kind: str
) -> None:
    """Send all groups at once or, when that is refused, one by one; a group that is refused alone is left out.

    Args:
        groups: what to send, by name; sent in this order.
        send: sends some of it; may be called again with the same.
        refusals: remembers what was refused.
        kind: what the names name, in the plural.

    Raises:
        Exception: what `send` raises when MLflow is away.
    """
    try:
        send(list(chain.from_iterable(groups.values())))
    except Exception as error:
        if not is_refusal(error):
            raise
        refused = {name: (fault, len(items)) for name, items in groups.items() if (fault := _fault(items, send))}
        refusals.add(kind, refused)


def _fault(items: Sequence[Item], send: Callable[[list[Item]], object]) -> Exception | None:
    try:
        send(list(items))
    except Exception as error:
        if not is_refusal(error):
            raise
        return error
    return None


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
