import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from workloads.nn.cpu_linear import cpu_linear

CPU = torch.device("cpu")


def inputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5, 16), (24, 16), (24,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def outcome(tensors: list[Tensor]) -> list[Tensor]:
    result = F.linear(*tensors)
    result.square().sum().backward()
    return [result, *(tensor.grad for tensor in tensors if tensor.grad is not None)]


def test_values_and_gradients_agree() -> None:
    usual = outcome(inputs())
    with cpu_linear(CPU):
        faster = outcome(inputs())
    assert type(faster[0].grad_fn).__name__ == "_LinearBackward"
    torch.testing.assert_close(faster, usual, rtol=1e-5, atol=1e-4)


def test_nothing_changes_outside_the_context() -> None:
    with cpu_linear(CPU):
        pass
    assert type(outcome(inputs())[0].grad_fn).__name__ != "_LinearBackward"


def test_only_what_needs_gradients_gets_them() -> None:
    states, weight, bias = inputs()
    with cpu_linear(CPU):
        F.linear(states.detach(), weight, bias.detach()).sum().backward()
        with torch.no_grad():
            assert not F.linear(states, weight, bias).requires_grad
    assert states.grad is None
    assert bias.grad is None
    assert weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_alone(dtype: torch.dtype) -> None:
    usual = outcome(inputs(dtype))
    with cpu_linear(CPU):
        torch.testing.assert_close(outcome(inputs(dtype)), usual, rtol=0, atol=0)


def test_autocast_wins() -> None:
    with cpu_linear(CPU), torch.autocast("cpu", torch.bfloat16):
        assert F.linear(*inputs()).dtype == torch.bfloat16


def test_no_rows_give_no_rows() -> None:
    _, weight, bias = inputs()
    with cpu_linear(CPU):
        assert F.linear(torch.zeros(0, 16), weight, bias).shape == (0, 24)
