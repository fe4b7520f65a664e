"""Conditions over recipe keys, such as `adversarial.steps > 1 and distillation.alpha <= 0.4`.

Python's own syntax, of which comparisons, arithmetic, `and`, `or`, `not`, numbers, strings, true, false and null are
understood. Nothing is executed. Null is neither larger nor smaller than anything.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

WORDS = {"true": True, "false": False, "null": None}
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
    """A condition cannot be read, or does not fit the values; the message says why."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that has been read.

    Args:
        text: as it was written.
        tree: its syntax.
    """

    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            ConditionError: it is no condition.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise ConditionError(f"{text!r} is no condition; {EXAMPLE}.") from error
        _check(tree, text)
        return cls(text, tree)

    @property
    def asked(self) -> tuple[str, ...]:
        """The recipe keys that it asks for, in the order of the text."""
        return tuple(dict.fromkeys(_keys(self.tree)))

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether it holds.

        Args:
            values: of a recipe, nested; a key that is not there, or below a section that is null, is null.

        Raises:
            ConditionError: values cannot be compared or calculated with.
        """
        try:
            return bool(_value(self.tree, values))
        except (TypeError, ZeroDivisionError) as error:
            raise ConditionError(f"{self.text!r}: {error}") from error


def lookup(values: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None where there is none."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


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
    for one in inner:
        _check(one, text)


def _keys(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute | ast.Name):
        if ast.unparse(node) not in WORDS:
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
    return WORDS[key] if key in WORDS else lookup(values, key)


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    terms = [_value(term, values) for term in (node.left, *node.comparators)]
    pairs = zip(terms, node.ops, terms[1:], strict=False)
    return all(_compares(type(op), left, right) for left, op, right in pairs)


def _compares(op: type[ast.cmpop], left: Any, right: Any) -> bool:
    if op not in (ast.Eq, ast.NotEq) and (left is None or right is None):
        return False
    return bool(COMPARISONS[op](left, right))
