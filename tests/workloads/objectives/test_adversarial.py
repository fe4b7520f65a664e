"""The adversarial loop against a slow restatement that keeps one graph and knows nothing of free accumulation."""

import pytest
import torch
from torch import Tensor, nn

from workloads.contract import KeyedRandom
from workloads.objectives.adversarial import (
    AdversarialOptions,
    Norm,
    Prediction,
    adversarial_steps,
    example_norm,
    project,
    start_perturbation,
    symmetric_divergence,
)
from workloads.objectives.cut import Cut

Inputs = dict[str, Tensor]
Logits = tuple[Tensor, Tensor]
Labels = tuple[Tensor, Tensor]


class Toy(nn.Module):
    """Two inputs, two tasks."""

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
        return sum(nn.functional.cross_entropy(scores, label) for scores, label in zip(logits, labels, strict=True))


Setting = tuple[Toy, Inputs, Labels]


@pytest.fixture
def setting() -> Setting:
    torch.manual_seed(3)
    model = Toy().double()
    inputs = {"text": torch.randn(6, 2, 4).double(), "image": torch.randn(6, 3, 4).double()}
    labels = (torch.randint(3, (6,)), torch.randint(5, (6,)))
    return model, inputs, labels


def added(shared: Inputs, modality: str, perturbation: Tensor) -> Inputs:
    return {name: value + perturbation if name == modality else value for name, value in shared.items()}


def kl_both_ways(left: Tensor, right: Tensor) -> Tensor:
    p, q = left.softmax(1), right.softmax(1)
    return ((p * (p.log() - q.log())).sum(1) + (q * (q.log() - p.log())).sum(1)).mean()


def restated(
    model: Toy, inputs: Inputs, labels: Labels, starts: Inputs, options: AdversarialOptions
) -> tuple[tuple[Tensor, ...], float]:
    """Gradients of L_std + 1/K sum_k (task + w KLsym) per modality, from one graph with fixed perturbations."""
    shared = model.shared(inputs)
    clean = model.logits(shared)
    total = model.loss(clean, labels)
    tasks = []
    for modality, start in starts.items():
        d = start.clone()
        for _ in range(options.steps):
            probe = d.clone().requires_grad_()
            perturbed = model.logits(added(shared, modality, probe))
            task = model.loss(perturbed, labels)
            divergence = sum(kl_both_ways(*pair) for pair in zip(perturbed, clean, strict=True))
            total = total + (task + options.kl_weight * divergence) / options.steps
            tasks.append(float(task.detach()) / options.steps)
            (g,) = torch.autograd.grad(task + options.kl_weight * divergence, probe, retain_graph=True)
            for row in range(len(d)):
                length = g[row].pow(2).sum().sqrt() if options.norm == "l2" else g[row].abs().max()
                d[row] += options.step_size * g[row] / max(float(length), 1e-8)
                if options.max_norm is not None and options.norm == "l2":
                    d[row] *= min(1.0, options.max_norm / float(d[row].pow(2).sum().sqrt()))
                elif options.max_norm is not None:
                    d[row] = d[row].clamp(-options.max_norm, options.max_norm)
    return torch.autograd.grad(total, list(model.parameters())), sum(tasks)


def ours(
    model: Toy, inputs: Inputs, labels: Labels, starts: Inputs, options: AdversarialOptions, constant: float
) -> tuple[list[Tensor], float]:
    def backward(loss: Tensor, retain_graph: bool = False) -> None:
        (loss * constant).backward(retain_graph=retain_graph)

    model.zero_grad()
    shared = model.shared(inputs)
    clean = model.logits(shared)
    cut = Cut((shared["text"], shared["image"], *clean), backward)
    leaves = dict(zip(shared, cut.leaves[:2], strict=True))

    def task(modality: str, perturbation: Tensor) -> Prediction:
        logits = model.logits(added(leaves, modality, perturbation))
        return Prediction(model.loss(logits, labels), logits)

    losses = adversarial_steps(task, cut.leaves[2:], starts, options, cut.backward)
    backward(model.loss(clean, labels) + cut.remainder())
    return [parameter.grad / constant for parameter in model.parameters()], float(losses.task)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("max_norm", [None, 0.3])
@pytest.mark.parametrize("perturb", [("text",), ("text", "image")])
def test_gradients_equal_the_restatement(
    setting: Setting, steps: int, norm: Norm, max_norm: float | None, perturb: tuple[str, ...]
) -> None:
    model, inputs, labels = setting
    options = AdversarialOptions(steps, 0.25, norm, max_norm, 0.1, 1.5)
    starts = {name: start_perturbation(inputs[name], options, KeyedRandom((name,))) for name in perturb}
    expected, expected_task = restated(model, inputs, labels, starts, options)
    gradients, task = ours(model, inputs, labels, starts, options, constant=0.125)
    assert task == pytest.approx(expected_task, rel=1e-12)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-13)


def test_plain_retained_graph_gives_the_same_as_a_cut(setting: Setting) -> None:
    model, inputs, labels = setting
    options = AdversarialOptions(3, 0.25, "l2", None, 0.1, 1.0)
    starts = {"text": start_perturbation(inputs["text"], options, KeyedRandom((0,)))}
    with_cut, _ = ours(model, inputs, labels, starts, options, constant=1.0)
    model.zero_grad()
    shared = model.shared(inputs)
    clean = model.logits(shared)

    def task(modality: str, perturbation: Tensor) -> Prediction:
        logits = model.logits(added(shared, modality, perturbation))
        return Prediction(model.loss(logits, labels), logits)

    adversarial_steps(task, clean, starts, options, lambda loss, retain_graph=False: loss.backward(retain_graph=True))
    model.loss(clean, labels).backward()
    for gradient, parameter in zip(with_cut, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-13)


def test_ascent_raises_the_loss(setting: Setting) -> None:
    model, inputs, labels = setting

    def losses(steps: int) -> float:
        options = AdversarialOptions(steps, 0.25, "l2", None, 0.0, 0.0)
        task = ours(model, inputs, labels, {"text": torch.zeros_like(inputs["text"])}, options, 1.0)[1]
        return task * steps

    assert losses(2) - losses(1) > losses(1)


def test_zero_start_is_zero_and_uniform_start_is_bounded() -> None:
    like = torch.empty(4, 3, 5)
    still = AdversarialOptions(1, 0.1, "l2", None, 0.0, 1.0)
    moving = AdversarialOptions(1, 0.1, "l2", None, 0.2, 1.0)
    assert start_perturbation(like, still, KeyedRandom((1,))).eq(0).all()
    start = start_perturbation(like, moving, KeyedRandom((1,)))
    assert 0.1 < start.abs().max() * 15**0.5 <= 0.2
    assert torch.equal(start, start_perturbation(like, moving, KeyedRandom((1,))))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_projection_keeps_the_inside_and_bounds_the_outside(norm: Norm) -> None:
    inside, outside = torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 3.0)
    projected = project(torch.cat([inside, outside]), norm, 1.0)
    torch.testing.assert_close(projected[:1], inside)
    assert float(example_norm(projected, norm)[1]) == pytest.approx(1.0)


def test_divergence_of_equal_predictions_is_zero_also_without_rows() -> None:
    logits = torch.randn(3, 4)
    assert float(symmetric_divergence(logits, logits)) == 0
    assert float(symmetric_divergence(logits[:0], logits[:0])) == 0
