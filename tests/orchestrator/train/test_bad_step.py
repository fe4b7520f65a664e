"""Steps whose loss or gradient is no number: what is decided, and that they change nothing."""

import pytest

from orchestrator.config.recipe import RecoverySection
from orchestrator.train.worker import BadStepAction, decide_bad_step


@pytest.mark.parametrize(
    ("action", "in_a_row", "expected"),
    [
        ("stop", 1, BadStepAction.STOP),
        ("skip", 1, BadStepAction.SKIP),
        ("skip", 3, BadStepAction.SKIP),
        ("skip", 4, BadStepAction.STOP),
        ("roll_back", 3, BadStepAction.ROLL_BACK),
        ("roll_back", 4, BadStepAction.STOP),
    ],
)
def test_the_recipe_decides_until_there_are_too_many_in_a_row(
    action: str, in_a_row: int, expected: BadStepAction
) -> None:
    recovery = RecoverySection.model_validate({"not_a_number": action, "bad_steps": 3})
    assert decide_bad_step(recovery, in_a_row) is expected
