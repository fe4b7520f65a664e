from __future__ import annotations

import pytest

from orchestrator.config.search_space import Condition, ConditionError

VALUES = {"adversarial": {"steps": 2, "init": "uniform"}, "distillation": {"alpha": 0.4}, "start": None, "on": True}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("adversarial.steps > 1", True),
        ("adversarial.steps > 1 and distillation.alpha <= 0.3", False),
        ("adversarial.steps > 1 or distillation.alpha <= 0.3", True),
        ("not adversarial.steps == 2", False),
        ("0 < distillation.alpha < 0.5", True),
        ("adversarial.init == 'uniform'", True),
        ("distillation.alpha * 2 - 0.1 < adversarial.steps / 2", True),
        ("start == null", True),
        ("start.checkpoint == null", True),
        ("start.checkpoint > 1", False),
        ("on == true", True),
        ("on", True),
        ("-distillation.alpha < 0", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert Condition.parse(text).holds(VALUES) is holds


@pytest.mark.parametrize(
    "text",
    ["", "a b", "f(1)", "a[0]", "a if b else c", "lambda: 1", "[a]", "a is b", "a ** 9", "().x", "`a`"],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ConditionError, match="for example"):
        Condition.parse(text)


def test_a_condition_names_what_it_asks_for() -> None:
    assert Condition.parse("a.b > 1 and c == null and a.b < 3").keys == ("a.b", "c")


@pytest.mark.parametrize("text", ["adversarial.init > 1", "1 / 0 > 1", "adversarial + 1 > 0"])
def test_values_that_do_not_fit_are_told_with_the_condition(text: str) -> None:
    with pytest.raises(ConditionError, match=r".* > "):
        Condition.parse(text).holds(VALUES)
