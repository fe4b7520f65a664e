"""Every way to compute gives the same losses and gradients."""

from collections.abc import Callable
from shutil import which
from typing import Any

import pytest
import torch
from micro_steps import Outcome, run
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock

At = Callable[[int], Clock]
Small = Callable[..., AlbefWorkload]

ADVERSARIAL = {"steps": 2, "perturb": ["text", "image"]}


def assert_same(first: Outcome, second: Outcome, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(first[0].metrics, second[0].metrics, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(first[0].shared, second[0].shared, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(first[1], second[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "compute",
    [
        {"packed": False},
        {"packed": False, "length_multiple": 4},
        {"length_multiple": 5},
        {"masked_multiple": 8},
        {"gradient_checkpointing": True},
        {"packed": False, "length_multiple": 12, "masked_multiple": 16, "gradient_checkpointing": True},
    ],
)
@pytest.mark.parametrize("adversarial", [{}, ADVERSARIAL])
def test_results_agree(
    small: Small, micro_batch: dict[str, Tensor], clock: At, compute: dict[str, Any], adversarial: dict[str, Any]
) -> None:
    usual = run(small(adversarial=adversarial), micro_batch, clock(1))
    assert_same(usual, run(small(adversarial=adversarial, compute=compute), micro_batch, clock(1)))


def test_recomputation_repeats_dropout_and_keeps_less(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    stored = {}

    def outcome(checkpointing: bool) -> Outcome:
        size = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal size
            size += tensor.nbytes
            return tensor

        workload = small(model={"dropout": 0.2}, compute={"gradient_checkpointing": checkpointing})
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = run(workload, micro_batch, clock(1))
        stored[checkpointing] = size
        return result

    assert_same(outcome(False), outcome(True))
    assert stored[True] < 0.7 * stored[False]


@pytest.mark.usefixtures("without_code_generation")
def test_compiled_layers_agree(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    student_alone = {"contrastive": False, "masked_language": False}
    usual = run(small(distillation=student_alone, compute={"packed": False}), micro_batch, clock(1))
    compiled = {"packed": False, "compile": True, "masked_multiple": 16}
    workload = small(distillation=student_alone, compute=compiled)
    assert_same(usual, run(workload, micro_batch, clock(1)), tolerance=1e-8)
    names = {name for name, _ in small().model.named_parameters()}
    assert {name for name, _ in workload.model.named_parameters()} == names


@pytest.mark.skipif(which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_generated_code_agrees(small: Small, micro_batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # others would take longer to start

    def features(compiled: bool) -> tuple[Tensor, ...]:
        student = small(compute={"packed": False, "compile": compiled}).model.student
        ids_BL = micro_batch["input_ids"]
        mask_BL = torch.arange(ids_BL.shape[1]) < micro_batch["length"][:, None]
        with torch.no_grad():
            states_BLD = student.bert.encode(student.bert.words(ids_BL), mask_BL)
            return (*student.image_outputs(micro_batch["image"]), states_BLD)

    torch.testing.assert_close(features(True), features(False), rtol=1e-8, atol=1e-8)
