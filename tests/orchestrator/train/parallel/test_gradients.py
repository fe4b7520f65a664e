"""The flat gradient buffer."""

import pytest
import torch

from orchestrator.train.parallel.data_parallel import GradientBuffer


def test_gradients_accumulate_in_the_buffer_and_are_cleared() -> None:
    model = torch.nn.Linear(3, 2)
    gradients = GradientBuffer(list(model.parameters()))
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(model.weight.grad, torch.full((2, 3), 2.0))
    gradients.divide(2.0)
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


def test_buckets_are_whole_parameters_in_reverse_and_cover_the_buffer() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (3, 2, 5, 1)]
    buckets = GradientBuffer(parameters, bucket_bytes=4 * 5).buckets
    assert [bucket.parameters for bucket in buckets] == [(parameters[3], parameters[2]), (parameters[1], parameters[0])]
    for number, bucket in enumerate(buckets, 1):
        bucket.gradients.fill_(number)
    assert [float(parameter.grad.mean()) for parameter in parameters] == [2.0, 2.0, 1.0, 1.0]
