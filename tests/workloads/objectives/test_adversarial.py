"""The adversarial loop against a slow restatement: one graph that is kept whole, nothing shared, nothing cut."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from workloads.contract import KeyedRandom
from workloads.objectives.adversarial import (
    AdversarialOptions,
    AscentOptions,
    DetachedBoundary,
    Form,
    Norm,
    Perturbations,
    Prediction,
    Reduction,
    adversarial_steps,
    init_perturbation,
    log_probabilities,
)

Inputs = dict[str, Tensor]
Logits = tuple[Tensor, Tensor]
Labels = tuple[Tensor, Tensor]
Setting = tuple["Toy", Inputs, Labels]


class Toy(nn.Module):
    """Two inputs, two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Linear(4, 4)
        self.classes = nn.Linear(8, 3)
        self.words = nn.Linear(8, 5)

    def shared(self, inputs: Inputs) -> Inputs:
        return {name: torch.tanh(self.below(value)) for name, value in inputs.items()}

    def logits(self, shared: Inputs) -> Logits:
        both = torch.tanh(torch.cat([shared["text"].mean(1), shared["image"].square().mean(1)], 1))
        return self.classes(both), self.words(both)

    def loss(self, logits: Logits, labels: Labels) -> Tensor:
        losses = [nn.functional.cross_entropy(scores, label) for scores, label in zip(logits, labels, strict=True)]
        return torch.stack(losses).sum()


@pytest.fixture
def setting() -> Setting:
    torch.manual_seed(3)
    model = Toy().double()
    inputs = {"text": torch.randn(6, 2, 4).double(), "image": torch.randn(6, 3, 4).double()}
    return model, inputs, (torch.randint(3, (6,)), torch.randint(5, (6,)))


def added(shared: Inputs, perturbations: Perturbations) -> Inputs:
    return {name: value + perturbations[name] if name in perturbations else value for name, value in shared.items()}


def kl_both_ways(left: Tensor, right: Tensor, reduction: Reduction) -> Tensor:
    p, q = left.softmax(1), right.softmax(1)
    elements = p * (p.log() - q.log()) + q * (q.log() - p.log())
    return elements.mean() if reduction == "elements" else elements.sum(1).mean()


def ascended(d: Tensor, g: Tensor, ascent: AscentOptions) -> Tensor:
    rows = []
    for row, slope in zip(d, g, strict=True):
        if ascent.norm == "l2":
            moved = row + ascent.step_size * slope / max(float(slope.pow(2).sum().sqrt()), 1e-8)
            length = float(moved.pow(2).sum().sqrt())
            rows.append(moved if ascent.max_norm is None else moved * min(1.0, ascent.max_norm / length))
        else:
            moved = row + ascent.step_size * slope / max(float(slope.abs().max()), 1e-8)
            rows.append(moved if ascent.max_norm is None else moved.clamp(-ascent.max_norm, ascent.max_norm))
    return torch.stack(rows)


def restated(setting: Setting, starts: Inputs, options: AdversarialOptions, clean_loss: bool) -> list[Tensor]:
    """Run VILLA's loop with plain autograd and return the accumulated gradients."""
    model, inputs, labels = setting
    passes = {"together": [list(starts)]}.get(options.form, [[name] for name in starts])
    divisor = options.steps * (len(passes) if options.form == "alternating" else 1)
    model.zero_grad()
    shared = model.shared(inputs)
    clean = model.logits(shared)
    if clean_loss:
        model.loss(clean, labels).backward(retain_graph=True)
    for names in passes:
        d = {name: starts[name].clone() for name in names}
        for _ in range(options.steps):
            d = {name: value.detach().requires_grad_() for name, value in d.items()}
            logits = model.logits(added(shared, d))
            divergence = sum(kl_both_ways(*pair, options.kl_reduction) for pair in zip(logits, clean, strict=True))
            loss = (model.loss(logits, labels) + options.kl_weight * divergence) / divisor
            loss.backward(retain_graph=True)
            d = {name: ascended(value.detach(), value.grad, options.ascent) for name, value in d.items()}
    return [parameter.grad.clone() for parameter in model.parameters()]


def ours(
    setting: Setting, starts: Inputs, options: AdversarialOptions, clean_loss: bool = True, constant: float = 1.0
) -> tuple[list[Tensor], float]:
    """Gradients and adversarial loss of the loop under test, with the shared part cut off."""
    model, inputs, labels = setting

    def backward(loss: Tensor, retain_graph: bool = False) -> None:
        (loss * constant).backward(retain_graph=retain_graph)

    model.zero_grad()
    shared = model.shared(inputs)
    clean = model.logits(shared)
    boundary = DetachedBoundary((shared["text"], shared["image"], *log_probabilities(clean)), backward)
    leaves = dict(zip(shared, boundary.leaves[:2], strict=True))

    def task(perturbations: Perturbations) -> Prediction:
        logits = model.logits(added(leaves, perturbations))
        return Prediction(model.loss(logits, labels), logits)

    losses = adversarial_steps(task, boundary.leaves[2:], starts, options, boundary.backward)
    backward(boundary.remainder() + model.loss(clean, labels) * float(clean_loss))
    return [parameter.grad / constant for parameter in model.parameters()], float(losses.task)


def starts_of(setting: Setting, names: tuple[str, ...], radius: float) -> Inputs:
    return {name: init_perturbation(setting[1][name], radius, KeyedRandom((name,))) for name in names}


COMBINATIONS = [
    ("separate", ("text",)),
    ("separate", ("image",)),
    ("separate", ("text", "image")),
    ("together", ("text", "image")),
    ("alternating", ("text", "image")),
]


@pytest.mark.parametrize(("form", "perturb"), COMBINATIONS)
@pytest.mark.parametrize("radius", [0.0, 0.1])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("max_norm", [None, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_gradients_equal_the_restatement(
    setting: Setting, form: Form, perturb: tuple[str, ...], radius: float, norm: Norm, max_norm: float, steps: int
) -> None:
    reductions: tuple[Reduction, ...] = ("rows", "elements")
    starts = starts_of(setting, perturb, radius)
    for reduction, clean_loss in itertools.product(reductions, (True, False)):
        options = AdversarialOptions(steps, AscentOptions(0.25, norm, max_norm), form, 1.5, reduction)
        expected = restated(setting, starts, options, clean_loss)
        gradients, _ = ours(setting, starts, options, clean_loss, constant=0.125)
        for gradient, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)


def test_without_weight_the_divergence_is_measured_and_changes_no_gradient(setting: Setting) -> None:
    options = AdversarialOptions(2, AscentOptions(0.25), kl_weight=0.0)
    starts = starts_of(setting, ("text",), 0.1)
    for gradient, reference in zip(
        ours(setting, starts, options)[0], restated(setting, starts, options, True), strict=True
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-12)


def test_alternating_weighs_half_of_separate(setting: Setting) -> None:
    starts = starts_of(setting, ("text", "image"), 0.1)
    separate, loss = ours(
        setting, starts, AdversarialOptions(3, AscentOptions(0.25), "separate", 1.0), clean_loss=False
    )
    alternating, half = ours(
        setting, starts, AdversarialOptions(3, AscentOptions(0.25), "alternating", 1.0), clean_loss=False
    )
    assert half == pytest.approx(loss / 2, rel=1e-12)
    for one, other in zip(separate, alternating, strict=True):
        torch.testing.assert_close(one / 2, other, rtol=1e-10, atol=1e-13)


def test_ascent_raises_the_loss(setting: Setting) -> None:
    def loss(steps: int) -> float:
        options = AdversarialOptions(steps, AscentOptions(0.25), "together")
        return ours(setting, starts_of(setting, ("text", "image"), 0.0), options)[1]

    assert loss(3) > loss(2) > loss(1)


def test_a_boundary_keeps_what_needs_no_gradient_as_it_is() -> None:
    fixed, trained = torch.ones(2, 3), torch.ones(2, 3, requires_grad=True)
    boundary = DetachedBoundary((fixed, trained * 2), lambda loss, retain_graph=False: loss.backward())
    assert [leaf.requires_grad for leaf in boundary.leaves] == [False, True]
    assert not boundary.remainder().requires_grad
    boundary.backward((boundary.leaves[0] * boundary.leaves[1]).sum())
    boundary.remainder().backward()
    assert boundary.leaves[0].grad is None
    assert torch.equal(trained.grad, torch.full((2, 3), 2.0))
