from __future__ import annotations

import math

from orchestrator.config.search_space import Choice, Parameter, Range
from orchestrator.sweep.report.maps import LEAST, importances
from workloads.contract import KeyedRandom

SPACE = (
    Parameter("weak", Range(0, 1)),
    Parameter("strong", Range(1e-5, 1e-1, logarithmic=True)),
    Parameter("steps", Choice((0, 2))),
    Parameter("size", Range(0, 1)),
    Parameter("fixed", Choice(("only",))),
)


def tried(count: int) -> list[tuple[dict[str, object], float]]:
    found = []
    for number in range(count):
        weak, strong, size = KeyedRandom(("importance", number)).numpy().random(3)
        steps = 2 * (number % 2)
        values = {"weak": weak, "strong": 1e-5 * 1e4**strong, "steps": steps, "fixed": "only"}
        value = 4 * (strong - 0.5) ** 2 + 0.2 * weak
        if steps:
            values["size"] = size
            value += 3 * size
        found.append((values, value))
    return found


def test_what_decides_comes_first() -> None:
    whole = [(values, math.log10(values["strong"]) + 0.1 * values["weak"]) for values, _ in tried(30)]
    found = importances(SPACE, whole, 0)
    assert found[0].key == "strong"
    assert found[0].share is not None
    assert found[0].share > 0.8
    assert found == importances(SPACE, whole, 0)


def test_a_key_under_a_condition_is_measured_where_it_is_searched() -> None:
    found = {one.key: one for one in importances(SPACE, tried(40), 0)}
    assert (found["size"].configurations, found["size"].always) == (20, False)
    assert found["size"].share is not None
    assert found["size"].share > 0.5
    assert (found["weak"].configurations, found["weak"].always) == (40, True)


def test_too_few_or_equal_configurations_tell_nothing() -> None:
    assert {one.share for one in importances(SPACE, tried(LEAST - 1), 0)} == {None}
    same = [(values, 1.0) for values, _ in tried(20)]
    assert {one.share for one in importances(SPACE, same, 0)} == {None}
    assert {one.key: one.share for one in importances(SPACE, tried(20), 0)}["fixed"] is None
    assert [one.configurations for one in importances(SPACE, [], 0)] == [0] * 5
