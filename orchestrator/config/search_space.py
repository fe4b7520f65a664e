"""A sweep's search space: recipe keys, the values they may take, and the conditions on them.

Conditions are written as `adversarial.steps > 1 and distillation.alpha <= 0.4`, in Python's syntax, of which
comparisons, arithmetic, `and`, `or`, `not`, numbers, strings, true, false and null are understood. Nothing is executed.
Null is neither larger nor smaller than anything.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.errors import ConfigError
from orchestrator.config.yaml_text import read_value

CONSTANTS = {"true": True, "false": False, "null": None}
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
EXAMPLE = "for example adversarial.steps > 1 and distillation.alpha <= 0.4"


class ConditionError(ValueError):
    """A condition cannot be parsed, or does not fit the values; the message says why."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A parsed condition.

    Args:
        text: as it was written.
        tree: its syntax tree.
    """

    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a condition.

        Raises:
            ConditionError: it is not a condition.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise ConditionError(f"{text!r} is not a condition; {EXAMPLE}.") from error
        _check(tree, text)
        return cls(text, tree)

    @property
    def keys(self) -> tuple[str, ...]:
        """The recipe keys in it, in the order of the text."""
        return tuple(dict.fromkeys(_keys(self.tree)))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether it holds.

        Args:
            values: of a recipe, nested; a missing key, or one below a section that is null, is null.

        Raises:
            ConditionError: the values cannot be compared, or the arithmetic fails.
        """
        try:
            return bool(_value(self.tree, values))
        except (TypeError, ZeroDivisionError) as error:
            raise ConditionError(f"{self.text!r}: {error}") from error


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None when it is missing."""
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return None
        node = node.get(part)
    return node


def _check(node: ast.expr, text: str) -> None:
    match node:
        case ast.BoolOp(values=parts):
            inner = parts
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            inner = [operand]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            inner = [left, right]
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARISONS for op in ops):
            inner = [left, *others]
        case ast.Constant(value=int() | float() | str()) | ast.Name():
            inner = []
        case ast.Attribute(value=ast.Attribute() | ast.Name() as value):
            inner = [value]
        case _:
            raise ConditionError(f"{text!r}: {ast.unparse(node)!r} is not understood in a condition; {EXAMPLE}.")
    for child in inner:
        _check(child, text)


def _keys(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute | ast.Name):
        if ast.unparse(node) not in CONSTANTS:
            yield ast.unparse(node)
        return
    for inner in ast.iter_child_nodes(node):
        yield from _keys(inner)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, values)
        case ast.UnaryOp(operand=operand):
            return -_value(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            return BINARY[type(op)](_value(left, values), _value(right, values))
        case ast.Compare():
            return _compare(node, values)
        case ast.Constant(value=value):
            return value
    key = ast.unparse(node)
    return CONSTANTS[key] if key in CONSTANTS else lookup(values, key)


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    terms = [_value(term, values) for term in (node.left, *node.comparators)]
    pairs = zip(terms, node.ops, terms[1:], strict=False)
    return all(_compares(type(op), left, right) for left, op, right in pairs)


def _compares(op: type[ast.cmpop], left: Any, right: Any) -> bool:
    if op not in (ast.Eq, ast.NotEq) and (left is None or right is None):
        return False
    return bool(COMPARISONS[op](left, right))


FORMS = "uniform(0, 0.8), loguniform(1e-4, 1e-1), integer(1, 4) or choice(a, b, c)"


class SpaceError(ValueError):
    """A range cannot be parsed or is empty; the message says why and what is accepted."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two bounds, both included.

    Args:
        low: smallest value.
        high: largest value.
        logarithmic: whether the logarithm is uniform.
        whole: whether they are integers.
    """

    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def edges(self) -> tuple[Any, ...]:
        """Return the bounds: values that a recipe must accept for those between to be plausible."""
        return (self.low, self.high)

    def quantile(self, share: float) -> float | int:
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

    def quantile(self, share: float) -> Any:
        """Return the value below which a share in [0, 1) of the values lies."""
        return self.values[int(share * len(self.values))]


Domain = Range | Choice


@dataclass(frozen=True, slots=True)
class Parameter:
    """A recipe key that is searched.

    Args:
        key: dotted.
        domain: its values.
        when: condition over other keys; where it does not hold, the key keeps the recipe's value.
    """

    key: str
    domain: Domain
    when: Condition | None = None


def parse_parameter(key: str, written: Any) -> Parameter:
    """Parse the values of a searched key.

    Args:
        key: dotted.
        written: a range such as `uniform(0, 1)`, a list to choose from, or a mapping with `draw` or `choice`, and
            `when`.

    Raises:
        SpaceError: it is not a range, or an empty one.
        ConditionError: `when` is not a condition.
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
    if when is not None and key in when.keys:
        raise SpaceError(f"when: asks for {key} itself")
    return Parameter(key, domain, when)


def _domain(written: Any) -> Domain:
    if isinstance(written, Sequence) and not isinstance(written, str):
        return _choice(written)
    match = re.fullmatch(r"\s*([a-z]+)\s*\((.*)\)\s*", str(written), re.DOTALL)
    if match is None:
        raise SpaceError(f"{written!r} is not a range; write {FORMS}")
    form, text = match.groups()
    try:
        arguments = read_value("values", f"[{text}]")
    except ConfigError as error:
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
    if len(arguments) != 2 or not all(isinstance(bound, number) and not isinstance(bound, bool) for bound in arguments):
        raise SpaceError(
            f"{written!r}: needs two {'whole ' if form == 'integer' else ''}numbers, the smaller one first"
        )
    low, high = arguments
    if not low < high:
        raise SpaceError(f"{written!r}: is empty; the smaller number comes first")
    if form == "loguniform" and low <= 0:
        raise SpaceError(f"{written!r}: a logarithmic range starts above 0")
    return Range(low, high, form == "loguniform", form == "integer")
