"""Locked layers against the same model without a lock, whose optimizer leaves those layers alone. In float64."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workloads.albef.config import AlbefConfig, deep_merge
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, KeyedRandom
from workloads.nn.timm_encoder import block_parameters

At = Callable[[int], Clock]
Batch = dict[str, Tensor]
Lock = dict[str, Any]

PLAIN = {"patch": 16, "width": 16, "depth": 3, "heads": 2}
ENCODERS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": (PLAIN, 32),
    "siglip": ({"name": "test_vit3"}, 32),
    "convnext": ({"name": "test_convnext"}, 64),
    "efficientnet": ({"name": "test_efficientnet"}, 64),
}
WHOLE: Lock = {"vision": "all", "text": "all"}
PART: Lock = {"vision": 1, "text": 1}
STEPS = 3
LOOSE = {"teacher.visual_encoder." + name for name in ("cls_token", "reg_token", "pos_embed")}
"""Parameters outside of layers, which the teacher keeps."""


def build(encoder: str = "plain", lock: Lock | None = None, **values: Any) -> AlbefWorkload:
    vision, size = ENCODERS[encoder]
    model = {
        "image_size": size,
        "vision": vision,
        "text": {"width": 24, "layers": 3, "fusion_layers": 2, "heads": 2, "vocabulary": 200, "positions": 16},
        "embed_dim": 8,
        "dropout": 0.0,
        "vision_weights": None,
        "text_weights": None,
        "lock": lock or {},
    }
    usual = {
        "model": model,
        "text": {"tokenizer": "minilm"},
        "contrastive": {"queue_size": 12},
        "distillation": {"ramp_epochs": 0.0, "momentum": 0.9},
    }
    workload = AlbefWorkload(AlbefConfig.model_validate(deep_merge(usual, values)))
    model = workload.build(torch.device("cpu"), KeyedRandom((7,))).double()
    with torch.no_grad():
        for name, parameter in model.student.named_parameters():
            noise = torch.randn(parameter.shape, generator=KeyedRandom((name,)).torch(), dtype=torch.float64)
            parameter.add_(0.05 * noise)
    model.init_teacher()
    return workload


def batch_of(workload: AlbefWorkload, micro_batch: Batch, step: int = 0) -> Batch:
    size = workload.config.model.image_hw
    generator = KeyedRandom(("image", step)).torch()
    return {**micro_batch, "image": torch.randint(256, (4, 3, *size), generator=generator, dtype=torch.uint8)}


def trained_names(workload: AlbefWorkload) -> set[str]:
    return {name for name, parameter in workload.model.student.named_parameters() if parameter.requires_grad}


class Trainer:
    """Trains some of a model's parameters and keeps what every step gave."""

    def __init__(self, workload: AlbefWorkload, names: set[str]) -> None:
        self.workload, self.names = workload, names
        student = dict(workload.model.student.named_parameters())
        self.parameters = {name: student[name] for name in sorted(names)}
        # AdamW's own epsilon would make updates of rounding errors: keys' biases have no gradient but these
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=1e-2, eps=1e-4)

    def step(self, batch: Batch, clock: Clock) -> dict[str, Any]:
        self.workload.model.student.zero_grad()
        self.workload.begin_step(clock)
        result = self.workload.micro_step(
            batch, clock, lambda loss, retain_graph=False, final=False: loss.backward(retain_graph=retain_graph)
        )
        gradients = {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}
        self.optimizer.step()
        self.workload.end_step(clock, result.shared)
        queue = {name: tensor.clone() for name, tensor in self.workload.model.queue.state_dict().items()}
        return {"metrics": dict(result.metrics), "shared": dict(result.shared), "grad": gradients, "queue": queue}


def assert_equal_to_unlocked(
    encoder: str, lock: Lock, micro_batch: Batch, clock: At, tolerance: float = 0.0, **values: Any
) -> None:
    locked, usual = build(encoder, lock, **values), build(encoder, **values)
    names = trained_names(locked)
    assert names < trained_names(usual)
    ours, theirs = Trainer(locked, names), Trainer(usual, names)
    for step in range(STEPS):
        batch = batch_of(locked, micro_batch, step)
        found, expected = ours.step(batch, clock(step)), theirs.step(batch, clock(step))
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    own, other = locked.model.state_dict(), usual.model.state_dict()
    torch.testing.assert_close(own, {name: other[name] for name in own}, rtol=tolerance, atol=tolerance)
    start = build(encoder).model.student.state_dict()
    kept = set(dict(locked.model.student.named_parameters())) - names
    assert all(torch.equal(own[f"student.{name}"], start[name]) for name in kept)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("lock", [WHOLE, PART, {"vision": 2}, {"text": 2}], ids=str)
def test_equal_to_the_bit_to_training_without_the_locked_layers(
    encoder: str, lock: Lock, micro_batch: Batch, clock: At
) -> None:
    assert_equal_to_unlocked(encoder, lock, micro_batch, clock)


VARIANTS: dict[str, dict[str, Any]] = {
    "padded": {"compute": {"packed": False}},
    "recomputed": {"compute": {"gradient_checkpointing": True}},
    "one objective": {"contrastive": {"enabled": False}, "matching": {"hard_negatives": False}},
    "text": {"adversarial": {"steps": 2, "perturb": ["text"], "init": "uniform"}},
    "tokens": {"adversarial": {"steps": 2, "perturb": ["image"], "clean_loss": False}},
    "patches": {"adversarial": {"steps": 2, "perturb": ["text", "image"], "form": "together", "image_at": "patches"}},
    "no divergence": {"adversarial": {"steps": 1, "init": "uniform", "kl_weight": 0.0, "clean_loss": False}},
}


@pytest.mark.parametrize("lock", [WHOLE, PART], ids=["whole", "part"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_in_every_way_to_train(lock: Lock, variant: str, micro_batch: Batch, clock: At) -> None:
    assert_equal_to_unlocked("plain", lock, micro_batch, clock, **VARIANTS[variant])


@pytest.mark.parametrize("lock", [WHOLE, PART], ids=["whole", "part"])
@pytest.mark.parametrize("distillation", [{"alpha": 0.0}, {"ramp_epochs": 0.5}], ids=str)
def test_equal_where_the_teacher_needs_captions_alone(
    lock: Lock, distillation: dict[str, float], micro_batch: Batch, clock: At
) -> None:
    """Their locked layers run together with those of the masked ones, and a product's last bit depends on its rows."""
    assert_equal_to_unlocked("plain", lock, micro_batch, clock, 1e-12, distillation=distillation)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("lock", [WHOLE, PART], ids=["whole", "part"])
def test_locked_parameters_have_no_gradient_no_optimizer_state_and_no_copy(
    encoder: str, lock: Lock, micro_batch: Batch, clock: At
) -> None:
    workload = build(encoder, lock)
    student = dict(workload.model.student.named_parameters())
    names = trained_names(workload)
    Trainer(workload, names).step(batch_of(workload, micro_batch), clock(0))
    assert {name for name, parameter in student.items() if parameter.grad is not None} == names
    optimized = [parameter for group in workload.parameter_groups() for parameter in group.parameters]
    assert {id(parameter) for parameter in optimized} == {id(student[name]) for name in names}
    of_teacher = {name for name, _ in workload.model.named_parameters() if name.startswith("teacher.")}
    assert {name.removeprefix("teacher.") for name in of_teacher - LOOSE} <= names
    encoders = {name for name in names if name.startswith(("visual_encoder.", "text_encoder.bert."))}
    assert encoders <= {name.removeprefix("teacher.") for name in of_teacher}


def count_calls(modules: dict[str, nn.Module]) -> Counter[str]:
    calls: Counter[str] = Counter()
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("lock", [WHOLE, PART], ids=["whole", "part"])
def test_locked_layers_run_once_per_micro_batch(encoder: str, lock: Lock, micro_batch: Batch, clock: At) -> None:
    workload = build(encoder, lock)
    student, trained = workload.model.student, trained_names(workload)
    locked = {
        name: module
        for name, module in student.named_modules()
        if next(module.children(), None) is None  # a layer of its own, not a list of layers that are called one by one
        and any(True for _ in module.parameters())
        and not any(f"{name}.{parameter}" in trained for parameter, _ in module.named_parameters())
    }
    assert any("visual_encoder" in name for name in locked)
    assert any("text_encoder" in name for name in locked)
    calls = count_calls(locked)
    workload.begin_step(clock(1))
    workload.micro_step(batch_of(workload, micro_batch), clock(1), lambda loss, **_: loss.backward())
    unused = {"text_encoder.bert.embeddings.position_embeddings", "text_encoder.bert.embeddings.token_type_embeddings"}
    assert calls == dict.fromkeys(locked.keys() - unused, 1)  # of these two the weights are read


def test_what_is_locked_has_no_dropout(micro_batch: Batch, clock: At) -> None:
    """A second step from the same state draws other dropout: what locked layers give stays."""
    workload = build("plain", WHOLE, model={"dropout": 0.3})
    student, batch = workload.model.student, batch_of(workload, micro_batch)
    workload.begin_step(clock(0))
    mask = torch.ones(4, 12, dtype=torch.bool)
    states = [
        student.bert.encode_lower(student.bert.words(batch["input_ids"].long()), mask, student.bert.text_layers)
        for _ in range(2)
    ]
    assert torch.equal(*states)
    assert student.bert.training


@pytest.mark.usefixtures("without_code_generation")
def test_compiled_layers_are_shared_as_well(micro_batch: Batch, clock: At) -> None:
    compute = {"packed": False, "masked_multiple": 16}
    usual, compiled = (build("plain", PART, compute={**compute, "compile": on}) for on in (False, True))
    found, expected = (
        Trainer(workload, trained_names(workload)).step(batch_of(workload, micro_batch), clock(1))
        for workload in (compiled, usual)
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    blocks = compiled.model.vision_blocks
    assert len(blocks) == len(block_parameters(usual.model.student.visual_encoder)[1:]) + 1  # the teacher's last one


def test_a_checkpoint_fits_a_model_with_another_lock() -> None:
    locked, usual = build("plain", PART), build("plain")
    other = build("plain", WHOLE)
    other.model.load_state_dict(usual.model.state_dict())
    usual.model.load_state_dict(locked.model.state_dict())
    state = usual.model.state_dict()
    assert all(
        torch.equal(state[f"teacher.{name}"], state[f"student.{name}"]) for name in usual.model.teacher.state_dict()
    )
