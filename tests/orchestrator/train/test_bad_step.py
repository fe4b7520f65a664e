"""Steps whose loss or gradient is no number: what is decided, and that they change nothing."""

import pytest

from orchestrator.config.recipe import RecoverySection
from orchestrator.train.worker import BadStep, decide_bad_step


@pytest.mark.parametrize(
    ("wish", "in_a_row", "expected"),
    [
        ("stop", 1, BadStep.STOP),
        ("skip", 1, BadStep.SKIP),
        ("skip", 3, BadStep.SKIP),
        ("skip", 4, BadStep.STOP),
        ("roll_back", 3, BadStep.ROLL_BACK),
        ("roll_back", 4, BadStep.STOP),
    ],
)
def test_the_recipe_decides_until_there_are_too_many_in_a_row(wish: str, in_a_row: int, expected: BadStep) -> None:
    recovery = RecoverySection.model_validate({"not_a_number": wish, "bad_steps": 3})
    assert decide_bad_step(recovery, in_a_row) is expected
