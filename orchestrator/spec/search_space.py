"""What a sweep searches: recipe keys and the values that they may take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from orchestrator.spec.condition import Condition

FORMS = "uniform(0, 0.8), loguniform(1e-4, 1e-1), integer(1, 4) or choice(a, b, c)"


class SpaceError(ValueError):
    """A range cannot be read or is empty; the message says why and what is understood."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two bounds, both included.

    Args:
        low: smallest value.
        high: largest value.
        logarithmic: whether their logarithm is uniform, not they themselves.
        whole: whether they are whole numbers.
    """

    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def edges(self) -> tuple[Any, ...]:
        """Return the values that a recipe has to accept for all others to be plausible."""
        return (self.low, self.high)

    def at(self, share: float) -> float | int:
        """Return the value below which a share in [0, 1) of the values lies."""
        if self.whole:
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        if self.logarithmic:
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values of any kind, whole sections too."""

    values: tuple[Any, ...]

    def edges(self) -> tuple[Any, ...]:
        """Return all values."""
        return self.values

    def at(self, share: float) -> Any:
        """Return the value below which a share in [0, 1) of the values lies."""
        return self.values[int(share * len(self.values))]


Domain = Range | Choice


@dataclass(frozen=True, slots=True)
class Parameter:
    """A recipe key that is searched.

    Args:
        key: dotted.
        domain: its values.
        when: the key is left as it is in the recipe where this does not hold; it asks for other keys only.
    """

    key: str
    domain: Domain
    when: Condition | None = None


def parse_parameter(key: str, written: Any) -> Parameter:
    """Read what a sweep says of a key.

    Args:
        key: dotted.
        written: a range in words, a list to choose from, or a mapping with `draw` or `choice`, and `when`.

    Raises:
        SpaceError: it is no range, or an empty one.
        ConditionError: `when` is no condition.
    """
    if not isinstance(written, Mapping):
        return Parameter(key, _domain(written))
    unknown = sorted(written.keys() - {"draw", "choice", "when"})
    if unknown or ("draw" in written) == ("choice" in written):
        raise SpaceError(f"write either draw: {FORMS}, or choice: [a, b], and when: CONDITION if need be")
    if "choice" in written and not isinstance(written["choice"], Sequence):
        raise SpaceError("choice: must be a list of values")
    domain = _domain(written["draw"] if "draw" in written else written["choice"])
    when = Condition.parse(str(written["when"])) if "when" in written else None
    if when is not None and key in when.asked:
        raise SpaceError(f"when: asks for {key} itself")
    return Parameter(key, domain, when)


def _domain(written: Any) -> Domain:
    if isinstance(written, Sequence) and not isinstance(written, str):
        return _choice(written)
    found = re.fullmatch(r"\s*([a-z]+)\s*\((.*)\)\s*", str(written), re.DOTALL)
    if found is None:
        raise SpaceError(f"{written!r} is no range; write {FORMS}")
    form, text = found.groups()
    try:
        arguments = YAML(typ="safe").load(f"[{text}]")
    except YAMLError as error:
        raise SpaceError(f"{written!r}: what is in brackets is not a list of values") from error
    return _choice(arguments) if form == "choice" else _range(form, arguments, str(written))


def _choice(values: Sequence[Any]) -> Choice:
    if not values:
        raise SpaceError("is an empty list; there is nothing to choose from")
    if any(value == other for number, value in enumerate(values) for other in values[:number]):
        raise SpaceError("names a value twice")
    return Choice(tuple(values))


def _range(form: str, arguments: Sequence[Any], written: str) -> Range:
    if form not in ("uniform", "loguniform", "integer"):
        raise SpaceError(f"{form!r} is not known; write {FORMS}")
    number = int if form == "integer" else int | float
    if len(arguments) != 2 or not all(isinstance(one, number) and not isinstance(one, bool) for one in arguments):
        raise SpaceError(
            f"{written!r}: needs two {'whole ' if form == 'integer' else ''}numbers, the smaller one first"
        )
    low, high = arguments
    if not low < high:
        raise SpaceError(f"{written!r}: is empty; the smaller number comes first")
    if form == "loguniform" and low <= 0:
        raise SpaceError(f"{written!r}: a logarithmic range starts above 0")
    return Range(low, high, form == "loguniform", form == "integer")
