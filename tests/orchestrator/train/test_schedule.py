"""The learning rate over a run."""

import pytest

from orchestrator.spec.recipe import ScheduleSection
from orchestrator.train.schedule import learning_rate


def test_warm_up_then_half_a_cosine() -> None:
    schedule = ScheduleSection(warmup_steps=10, warmup_from=1e-5, final=1e-6)
    rates = [learning_rate(schedule, 1e-4, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[5] == pytest.approx(5.5e-5)
    assert rates[10] == pytest.approx(1e-4)
    assert rates[60] == pytest.approx((1e-4 + 1e-6) / 2)
    assert rates[110] == pytest.approx(1e-6)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_constant() -> None:
    assert learning_rate(ScheduleSection(kind="constant"), 3e-4, 77, 100) == 3e-4
