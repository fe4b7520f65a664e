import pytest
import torch

from workloads.nn.attention import dropout


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_zeroes_the_share_and_keeps_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1000, 1001), probability, training=True)
    assert float((dropped == 0).float().mean()) == pytest.approx(probability, abs=2e-3)
    assert float(dropped.mean()) == pytest.approx(1, abs=3e-3)
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / (1 - probability)], rel=1e-4)


def test_neighbours_and_columns_are_independent() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400, 1024), 0.5, training=True) > 0).double() - 0.5
    for lag in (1, 2, 3, 4, 1024):
        flat = kept.flatten()
        assert abs(float((flat[:-lag] * flat[lag:]).mean())) < 2e-3


def test_the_seed_decides() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(7, 9), 0.3, training=True)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_gradient_flows_through_what_is_kept() -> None:
    torch.manual_seed(0)
    states = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    dropped = dropout(states, 0.4, training=True)
    dropped.sum().backward()
    torch.testing.assert_close(states.grad * states, dropped)


def test_nothing_happens_outside_training() -> None:
    states = torch.randn(4, 5)
    assert dropout(states, 0.5, training=False) is states
    assert dropout(states, 0.0, training=True) is states
