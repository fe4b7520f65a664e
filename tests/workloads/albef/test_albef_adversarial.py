"""Adversarial ALBEF steps against plain autograd on one kept graph."""

from collections.abc import Callable
from itertools import starmap

import pytest
import torch
from torch import Tensor

from workloads.albef.config import AdversarialConfig, ComputeConfig
from workloads.albef.fusion import FusionLosses, FusionObjectives, prepare_texts
from workloads.albef.step import contrast, encoder_outputs, teacher_outputs
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock
from workloads.objectives.adversarial import init_perturbation
from workloads.objectives.matching import matching_pairs

At = Callable[[int], Clock]
Small = Callable[..., AlbefWorkload]
Passes = list[dict[str, Tensor]]

SETTINGS = {"init": "uniform", "init_radius": 0.5, "step_size": 0.3, "kl_weight": 0.7}


def kl_both_ways(left: Tensor, right: Tensor) -> Tensor:
    p, q = left.softmax(1), right.softmax(1)
    return (p * (p.log() - q.log()) + q * (q.log() - p.log())).sum(1).mean()


def restated(workload: AlbefWorkload, batch: dict[str, Tensor], clock: Clock) -> tuple[dict[str, Tensor], float]:
    """Gradients of the student by VILLA's loop, every pass from pixels and words up; and the adversarial loss."""
    student, config = workload.model.student, workload.config
    choices, options = workload._keyed_choices(clock), config.adversarial
    texts = prepare_texts(batch, choices, ComputeConfig())
    first = workload.model.locked.first_outputs(student, batch["image"], texts.input_ids_TL, texts.mask_TL)
    teacher = teacher_outputs(workload.model, config, batch["image"], texts, first, 0.4)
    encoded = encoder_outputs(workload.model, first, texts)
    contrastive = contrast(workload.model, encoded, texts, teacher.features, 0.4)
    objectives = FusionObjectives(
        student,
        texts,
        matching_pairs(choices.negatives(contrastive.in_batch, torch.eye(4, dtype=torch.bool))),
        teacher.words_MV,
        0.4,
    )

    def perturbed(shifts: dict[str, Tensor]) -> FusionLosses:
        added = shifts.get("image", torch.zeros(()))
        at_patches = options.image_at == "patches"
        hook = student.visual_encoder.patch_embed.register_forward_hook(
            lambda module, inputs, output: output + added if at_patches else output
        )
        image = student.image_tokens(batch["image"]) + (0 if at_patches else added)
        hook.remove()
        words = student.bert.words(texts.input_ids_TL)
        words = words + torch.cat([shifts["text"], shifts["text"]]) if "text" in shifts else words
        return objectives(student.bert.encode(words, texts.mask_TL), image)

    clean = perturbed({})
    mask = texts.mask_TL[:4]
    like = {
        "text": encoded.words_TLD[:4],
        "image": encoded.image_BNC if options.image_at == "tokens" else encoded.image_BNC[:, 1:],
    }
    passes = [list(options.perturb)] if options.form == "together" else [[name] for name in options.perturb]
    divisor = options.steps * (len(passes) if options.form == "alternating" else 1)
    (contrastive.loss + (clean.total if options.clean_loss else 0)).backward(retain_graph=True)
    adversarial = 0.0
    for names in passes:
        shifts = {
            name: init_perturbation(
                like[name].detach(), 0.5, clock.draw.child("perturb", name), mask if name == "text" else None
            )
            for name in names
        }
        for _ in range(options.steps):
            shifts = {name: shift.detach().requires_grad_() for name, shift in shifts.items()}
            losses = perturbed(shifts)
            divergence = sum(starmap(kl_both_ways, zip(losses.logits, clean.logits, strict=True)))
            ((losses.total + options.kl_weight * divergence) / divisor).backward(retain_graph=True)
            adversarial += float(losses.total.detach()) / divisor
            shifts = {
                name: shift + options.step_size * shift.grad / shift.grad.flatten(1).norm(dim=1)[:, None, None]
                for name, shift in shifts.items()
            }
    return {name: parameter.grad.clone() for name, parameter in student.named_parameters()}, adversarial


FORMS = [
    {"perturb": ("text",)},
    {"perturb": ("image",)},
    {"perturb": ("text", "image")},
    {"perturb": ("image",), "image_at": "patches"},
    {"perturb": ("text", "image"), "form": "together"},
    {"perturb": ("text", "image"), "form": "together", "image_at": "patches", "clean_loss": False},
    {"perturb": ("text", "image"), "form": "alternating", "clean_loss": False},
    {"perturb": ("text", "image"), "form": "alternating", "image_at": "patches"},
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_equal_the_restatement(
    small: Small, micro_batch: dict[str, Tensor], clock: At, form: dict[str, object], steps: int
) -> None:
    workload = small(adversarial={"steps": steps, **form, **SETTINGS})
    expected, adversarial = restated(workload, micro_batch, clock(1))
    workload.model.student.zero_grad()
    constant = 0.25
    result = workload.micro_step(
        micro_batch, clock(1), lambda loss, retain_graph=False, final=False: (loss * constant).backward()
    )
    assert float(result.metrics["loss_adversarial"]) == pytest.approx(adversarial, rel=1e-10)
    for name, parameter in workload.model.student.named_parameters():
        torch.testing.assert_close(parameter.grad / constant, expected[name], rtol=1e-7, atol=1e-11, msg=name)


def test_a_single_pair_without_masking_leaves_nothing_to_perturb(
    small: Small, micro_batch: dict[str, Tensor], clock: At
) -> None:
    workload = small(adversarial={"steps": 2}, masking={"enabled": False})
    single = {name: rows[:1] for name, rows in micro_batch.items()}
    result = workload.micro_step(single, clock(1), lambda loss, retain_graph=False, final=False: loss.backward())
    assert result.metrics["loss_adversarial"] == 0
    assert workload.model.student.temp.grad is not None


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_gradients_are_close_to_those_of_float32(
    small: Small, micro_batch: dict[str, Tensor], clock: At, form: dict[str, object]
) -> None:
    def gradient(autocast: bool) -> Tensor:
        workload = small(adversarial={"steps": 3, **form, **SETTINGS})
        workload.model.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            workload.micro_step(micro_batch, clock(1), lambda loss, retain_graph=False, final=False: loss.backward())
        return torch.cat([parameter.grad.flatten() for parameter in workload.model.student.parameters()])

    assert torch.nn.functional.cosine_similarity(gradient(True), gradient(False), dim=0) > 0.98


def test_inactive_steps_change_nothing(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    off = small().micro_step(micro_batch, clock(1), lambda loss, retain_graph=False, final=False: loss.backward())
    later = small(adversarial={"steps": 2, "active": (0.5, 1.0)})
    result = later.micro_step(micro_batch, clock(1), lambda loss, retain_graph=False, final=False: loss.backward())
    torch.testing.assert_close(dict(result.metrics), dict(off.metrics), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("steps", "progress", "active"),
    [(0, 0.6, False), (1, 0.4, False), (1, 0.5, True), (1, 0.89, True), (1, 0.9, False)],
)
def test_active_part_of_the_run(steps: int, progress: float, active: bool) -> None:
    config = AdversarialConfig(steps=steps, active=(0.5, 0.9))
    assert config.is_active(progress) is active
