import pytest
import torch
from torch.nn import functional as F

from workloads.objectives.adversarial import Reduction, divergence_sum, log_probabilities, symmetric_divergence

LEFT, RIGHT = log_probabilities((torch.randn(3, 4, generator=torch.manual_seed(1)), torch.ones(3, 4)))


def test_it_is_both_kullback_leibler_divergences() -> None:
    both = F.kl_div(LEFT, RIGHT, log_target=True, reduction="batchmean") + F.kl_div(
        RIGHT, LEFT, log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(symmetric_divergence(LEFT, RIGHT, "rows"), both)
    torch.testing.assert_close(symmetric_divergence(LEFT, RIGHT, "elements"), both / 4)
    torch.testing.assert_close(divergence_sum((LEFT, LEFT), (RIGHT, LEFT), "rows"), both)


@pytest.mark.parametrize("reduction", ["rows", "elements"])
def test_equal_predictions_and_none_have_no_divergence(reduction: Reduction) -> None:
    assert float(symmetric_divergence(LEFT, LEFT, reduction)) == 0
    assert float(symmetric_divergence(LEFT[:0], LEFT[:0], reduction)) == 0
