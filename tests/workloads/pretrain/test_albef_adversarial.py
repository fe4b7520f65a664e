"""Adversarial ALBEF steps against one plain graph with fixed perturbations."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workloads.contract import Clock
from workloads.objectives.adversarial import start_perturbation, symmetric_divergence
from workloads.objectives.matching import matching_pairs
from workloads.pretrain.albef import AlbefWorkload
from workloads.pretrain.albef_adversarial import adversarial_is_active, options_of
from workloads.pretrain.albef_config import AdversarialConfig
from workloads.pretrain.albef_contrast import contrast
from workloads.pretrain.albef_fusion import FusionLosses, FusionTask
from workloads.pretrain.albef_teacher import ask_teacher
from workloads.pretrain.albef_texts import read_texts

At = Callable[[int], Clock]
Small = Callable[..., AlbefWorkload]

SETTINGS = {"init": "uniform", "init_radius": 0.5, "step_size": 0.3, "kl_weight": 0.7}


def restated(workload: AlbefWorkload, batch: dict[str, Tensor], clock: Clock) -> tuple[tuple[Tensor, ...], Tensor]:
    """Student gradients of L_std + 1/K sum_k (L + w KLsym) per modality, with words or image tokens shifted."""
    student, config = workload.model.student, workload.config
    draws, options = workload._keyed_draws(clock), config.adversarial
    texts = read_texts(batch, draws)
    teacher = ask_teacher(workload.model.teacher, config, batch["image"], texts, 0.4)
    words, states, image = student.encode(batch["image"], texts.input_ids_TL, texts.mask_TL)
    compared = contrast(workload.model, student.encode(batch["image"], *texts[:2]), teacher.features, 0.4)
    task = FusionTask(student, texts, matching_pairs(draws.negatives(compared.own)), teacher.words_MV, 0.4)
    clean = task(states, image)

    def perturbed(modality: str, shift: Tensor) -> FusionLosses:
        if modality == "image":
            return task(states, image + shift)
        return task(student.bert.encode(words + torch.cat([shift, shift]), texts.mask_TL), image)

    total, adversarial = compared.loss + clean.total, 0.0
    for modality in options.perturb:
        like = image if modality == "image" else words[:4]
        shift = start_perturbation(like.detach(), options_of(options), clock.draw.child("perturb", modality))
        for _ in range(options.steps):
            probe = shift.clone().requires_grad_()
            losses = perturbed(modality, probe)
            divergence = sum(symmetric_divergence(*pair) for pair in zip(losses.logits, clean.logits, strict=True))
            term = losses.total + options.kl_weight * divergence
            total, adversarial = total + term / options.steps, adversarial + losses.total.detach() / options.steps
            (gradient,) = torch.autograd.grad(term, probe, retain_graph=True)
            shift = shift + options.step_size * gradient / gradient.flatten(1).norm(dim=1)[:, None, None]
    return torch.autograd.grad(total, list(student.parameters())), adversarial


@pytest.mark.parametrize("perturb", [("text",), ("image",), ("text", "image")])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_equal_the_restatement(
    small: Small, micro_batch: dict[str, Tensor], clock: At, perturb: tuple[str, ...], steps: int
) -> None:
    workload = small(adversarial={"steps": steps, "perturb": perturb, **SETTINGS})
    expected, adversarial = restated(workload, micro_batch, clock(1))
    constant = 0.25
    result = workload.micro_step(micro_batch, clock(1), lambda loss, retain_graph=False: (loss * constant).backward())
    torch.testing.assert_close(result.metrics["loss_adversarial"], adversarial, rtol=1e-10, atol=0)
    for (name, parameter), wanted in zip(workload.model.student.named_parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad / constant, wanted, rtol=1e-7, atol=1e-11, msg=name)


def test_inactive_steps_change_nothing(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    off = small().micro_step(micro_batch, clock(1), lambda loss, retain_graph=False: loss.backward())
    later = small(adversarial={"steps": 2, "active": (0.5, 1.0)})
    result = later.micro_step(micro_batch, clock(1), lambda loss, retain_graph=False: loss.backward())
    torch.testing.assert_close(dict(result.metrics), dict(off.metrics), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("steps", "progress", "active"),
    [(0, 0.6, False), (1, 0.4, False), (1, 0.5, True), (1, 0.89, True), (1, 0.9, False)],
)
def test_active_part_of_the_run(steps: int, progress: float, active: bool) -> None:
    config = AdversarialConfig(steps=steps, active=(0.5, 0.9))
    assert adversarial_is_active(config, progress) is active
