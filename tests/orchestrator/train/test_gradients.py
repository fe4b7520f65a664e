"""The flat gradient buffer."""

import pytest
import torch

from orchestrator.train.collective import SingleWorker
from orchestrator.train.gradients import GradientBuffer


def test_gradients_accumulate_in_the_buffer_and_are_cleared() -> None:
    model = torch.nn.Linear(3, 2)
    gradients = GradientBuffer(list(model.parameters()))
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(model.weight.grad, torch.full((2, 3), 2.0))
    gradients.sum(SingleWorker(), weight=2.0)
    assert torch.equal(model.weight.grad, torch.ones(2, 3))
    gradients.clear()
    assert not model.weight.grad.any()


def test_the_norm_covers_all_parameters_and_dtypes() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))]
    gradients = GradientBuffer(parameters)
    for parameter in parameters:
        parameter.grad.add_(3.0)
    assert float(gradients.norm()) == pytest.approx(6.0)
    gradients.clip(gradients.norm(), 1.5)
    assert float(gradients.norm()) == pytest.approx(1.5, rel=1e-5)
