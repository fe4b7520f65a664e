import pytest

from workloads.objectives.contrastive import ramped_alpha


@pytest.mark.parametrize(
    ("ramp", "epoch", "expected"), [(1, 0, 0), (1, 0.25, 0.1), (1, 1, 0.4), (1, 7, 0.4), (2, 1, 0.2), (0, 0, 0.4)]
)
def test_alpha_ramps_over_epochs(ramp: float, epoch: float, expected: float) -> None:
    assert ramped_alpha(0.4, ramp, epoch) == pytest.approx(expected)
