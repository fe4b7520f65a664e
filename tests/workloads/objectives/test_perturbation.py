import pytest
import torch

from workloads.contract import KeyedRandom
from workloads.objectives.adversarial import AscentOptions, Norm, ascend, example_norm, init_perturbation, project

KEY = KeyedRandom((1,))


def test_start_is_zero_or_uniform_and_keyed() -> None:
    like = torch.empty(4, 3, 5)
    assert init_perturbation(like, 0.0, KEY).eq(0).all()
    start = init_perturbation(like, 0.2, KEY)
    assert 0.1 < start.abs().max() * 15**0.5 <= 0.2
    assert torch.equal(start, init_perturbation(like, 0.2, KEY))
    assert not torch.equal(start, init_perturbation(like, 0.2, KEY.child("text")))


def test_padding_starts_at_zero_and_does_not_shorten_the_rest() -> None:
    real = torch.tensor([[True, True, True], [True, False, False]])
    start = init_perturbation(torch.empty(2, 3, 400), 0.2, KEY, real)
    assert start[1, 1:].eq(0).all()
    uniform_norm = 0.2 / 3**0.5
    torch.testing.assert_close(example_norm(start, "l2").flatten(), torch.full((2,), uniform_norm), rtol=0.05, atol=0)


def test_half_precision_inputs_get_a_float32_perturbation() -> None:
    assert init_perturbation(torch.empty(2, 3, 4, dtype=torch.bfloat16), 0.1, KEY).dtype == torch.float32
    assert init_perturbation(torch.empty(2, 3, 4, dtype=torch.float64), 0.0, KEY).dtype == torch.float64


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_step_has_its_length_whatever_the_gradients(norm: Norm) -> None:
    gradient = torch.randn(3, 2, 4, generator=KEY.torch()) * torch.tensor([1e-5, 1.0, 1e5]).view(3, 1, 1)
    step = ascend(torch.zeros(3, 2, 4), gradient, AscentOptions(0.3, norm))
    torch.testing.assert_close(example_norm(step, norm).flatten(), torch.full((3,), 0.3))
    assert ascend(torch.ones(1, 2), torch.zeros(1, 2), AscentOptions(0.3, norm)).eq(1).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_projection_keeps_the_inside_and_bounds_the_outside(norm: Norm) -> None:
    inside, outside = torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 3.0)
    projected = project(torch.cat([inside, outside]), norm, 1.0)
    torch.testing.assert_close(projected[:1], inside)
    assert float(example_norm(projected, norm)[1]) == pytest.approx(1.0)


def test_the_start_does_not_depend_on_the_memory_layout() -> None:
    plain, turned = torch.empty(2, 3, 4), torch.empty(2, 4, 3).transpose(1, 2)
    assert torch.equal(init_perturbation(plain, 0.1, KEY), init_perturbation(turned, 0.1, KEY))
