"""What to do about a step whose loss or gradient is no number: a pure decision, the same on every worker."""

from __future__ import annotations

from enum import Enum

from orchestrator.config.recipe import RecoverySection


class BadStep(Enum):
    """What is done about it; the step itself has changed nothing."""

    SKIP = "skip"
    ROLL_BACK = "roll back"
    STOP = "stop"


def decide_bad_step(recovery: RecoverySection, in_a_row: int) -> BadStep:
    """Return what to do.

    Args:
        recovery: the recipe's wish, and how many bad steps in a row it bears.
        in_a_row: bad steps since the last good one, this one included.
    """
    if recovery.not_a_number == "stop" or in_a_row > recovery.bad_steps:
        return BadStep.STOP
    return BadStep.SKIP if recovery.not_a_number == "skip" else BadStep.ROLL_BACK
