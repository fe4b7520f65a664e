"""One micro-batch of ALBEF: what it reports, what it depends on, and what it does not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from micro_steps import run
from torch import Tensor

from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock

At = Callable[[int], Clock]
Small = Callable[..., AlbefWorkload]


def first(batch: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {name: tensor[:rows] for name, tensor in batch.items()}


def test_reports_finite_losses_that_add_up(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    metrics = run(small(), micro_batch, clock(1))[0].metrics
    assert set(metrics) == {"loss", "loss_itc", "loss_itm", "itm_skipped", "loss_mlm", "alpha", "temperature"}
    assert all(torch.isfinite(value) and not value.requires_grad for value in metrics.values())
    torch.testing.assert_close(metrics["loss"], metrics["loss_itc"] + metrics["loss_itm"] + metrics["loss_mlm"])


def test_every_student_parameter_learns_and_no_teacher_parameter_does(
    small: Small, micro_batch: dict[str, Tensor], clock: At
) -> None:
    workload = small()
    gradients = run(workload, micro_batch, clock(1))[1]
    assert set(gradients) == {name for name, _ in workload.model.student.named_parameters()}
    assert all(parameter.grad is None for parameter in workload.model.teacher.parameters())


def test_equal_keys_give_equal_results(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    workload = small()
    result, gradients = run(workload, micro_batch, clock(1))
    workload = small()
    repeated, again = run(workload, micro_batch, clock(1))
    torch.testing.assert_close(result.metrics, repeated.metrics, rtol=0, atol=0)
    torch.testing.assert_close(gradients, again, rtol=0, atol=0)


def test_padding_columns_do_not_matter(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    trimmed = {**micro_batch, "input_ids": micro_batch["input_ids"][:, :9]}
    ids = micro_batch["input_ids"]
    filled = {**micro_batch, "input_ids": ids.masked_fill(ids == 0, 150)}
    reference, *others = (run(small(), batch, clock(1)) for batch in (micro_batch, trimmed, filled))
    for other in others:
        torch.testing.assert_close(reference[0].metrics, other[0].metrics, rtol=0, atol=0)
        torch.testing.assert_close(reference[1], other[1], rtol=0, atol=0)


def test_one_pair_skips_matching(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    metrics = run(small(), first(micro_batch, 1), clock(1))[0].metrics
    assert float(metrics["itm_skipped"]) == 1
    assert float(metrics["loss_itm"]) == 0
    assert torch.isfinite(metrics["loss"])


def test_one_pair_with_matching_alone_trains_nothing(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    workload = small(contrastive={"enabled": False}, masking={"enabled": False}, matching={"hard_negatives": False})
    result, gradients = run(workload, first(micro_batch, 1), clock(1))
    assert float(result.metrics["loss"]) == 0
    assert not gradients


@pytest.mark.parametrize("steps", [0, 2])
def test_no_masked_token_is_no_nan(small: Small, micro_batch: dict[str, Tensor], clock: At, steps: int) -> None:
    workload = small(masking={"probability": 1e-9}, adversarial={"steps": steps})
    result, gradients = run(workload, micro_batch, clock(1))
    assert float(result.metrics["loss_mlm"]) == 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize(
    ("off", "gone"),
    [
        ("contrastive", {"loss_itc"}),
        ("matching", {"loss_itm", "itm_skipped"}),
        ("masking", {"loss_mlm"}),
    ],
)
def test_an_objective_that_is_off_reports_nothing(
    small: Small, micro_batch: dict[str, Tensor], clock: At, off: str, gone: set[str]
) -> None:
    settings = {off: {"enabled": False}, "matching": {"enabled": off != "matching", "hard_negatives": False}}
    metrics = run(small(**settings), micro_batch, clock(1))[0].metrics
    everything = run(small(), micro_batch, clock(1))[0].metrics
    assert set(everything) - set(metrics) == gone


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"contrastive": {"enabled": False}, "matching": {"hard_negatives": False}},
        {"adversarial": {"steps": 2, "active": (0.5, 1.0)}},
    ],
)
@pytest.mark.parametrize("step", [1, 6])
def test_an_empty_result_looks_like_a_real_one(
    small: Small, micro_batch: dict[str, Tensor], clock: At, settings: dict[str, Any], step: int
) -> None:
    workload = small(**settings)
    real, empty = run(workload, micro_batch, clock(step))[0], workload.empty_result(clock(step))
    for real_part, empty_part in ((real.metrics, empty.metrics), (real.shared, empty.shared)):
        assert list(real_part) == list(empty_part)
        for name, tensor in real_part.items():
            assert tensor.dtype == empty_part[name].dtype
            assert tensor.shape[1:] == empty_part[name].shape[1:]
    assert all(len(tensor) == 0 for tensor in empty.shared.values())
    assert all(float(value) == 0 for value in empty.metrics.values())


def test_temperature_is_clamped_before_it_is_used(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    workload = small()
    with torch.no_grad():
        workload.model.student.temp.fill_(7.0)
    assert float(run(workload, micro_batch, clock(1))[0].metrics["temperature"]) == 0.5


def test_alpha_ramps_with_the_epoch(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    workload = small(distillation={"ramp_epochs": 1.0})
    alphas = [float(run(workload, micro_batch, clock(step))[0].metrics["alpha"]) for step in (0, 1, 5, 9)]
    assert alphas == pytest.approx([0, 0.08, 0.4, 0.4])


def test_queue_takes_the_shared_rows_in_order(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    workload = small()
    shared = run(workload, micro_batch, clock(1))[0].shared
    workload.end_step(clock(1), shared)
    queue = workload.model.queue
    assert torch.equal(queue.image_queue[:, :4].T, shared["image_features"])
    assert torch.equal(queue.text_queue[:, :4].T, shared["text_features"])
    assert int(queue.queue_ptr) == 4


def test_queue_is_read_but_not_written_within_a_step(small: Small, micro_batch: dict[str, Tensor], clock: At) -> None:
    workload = small()
    before = {name: tensor.clone() for name, tensor in workload.model.queue.state_dict().items()}
    loss = run(workload, micro_batch, clock(1))[0].metrics["loss_itc"]
    torch.testing.assert_close(workload.model.queue.state_dict(), before, rtol=0, atol=0)
    workload.model.queue.image_queue.neg_()
    workload.model.queue.text_queue.neg_()
    assert run(workload, micro_batch, clock(1))[0].metrics["loss_itc"] != loss


def test_teacher_moves_once_per_step_with_the_student_of_the_last(small: Small, clock: At) -> None:
    workload = small()
    student, teacher = (module.text_proj.weight.clone() for module in (workload.model.student, workload.model.teacher))
    workload.begin_step(clock(0))
    torch.testing.assert_close(workload.model.teacher.text_proj.weight, 0.995 * teacher + 0.005 * student)


@pytest.mark.parametrize("on", [True, False])
def test_teacher_dropout_follows_the_recipe(small: Small, clock: At, on: bool) -> None:
    workload = small(distillation={"teacher_dropout": on})
    workload.begin_step(clock(0))
    assert workload.model.teacher.training is on
    assert workload.model.student.training


def test_vectors_biases_and_the_temperature_escape_weight_decay(small: Small) -> None:
    workload = small()
    spared, decayed = workload.parameter_groups()
    assert (spared.weight_decay, decayed.weight_decay) == (False, True)
    assert all(parameter.ndim <= 1 for parameter in spared.parameters)
    assert all(parameter.ndim > 1 for parameter in decayed.parameters)
    assert len(spared.parameters) + len(decayed.parameters) == len(list(workload.model.student.parameters()))


@pytest.mark.parametrize(
    ("decay_temperature", "name", "decays"),
    [
        (False, "temp", False),
        (True, "temp", True),
        (False, "visual_encoder.pos_embed", True),
        (False, "visual_encoder.cls_token", True),
        (False, "text_encoder.bert.embeddings.word_embeddings.weight", True),
        (False, "text_encoder.bert.embeddings.LayerNorm.weight", False),
        (False, "text_encoder.cls.predictions.bias", False),
    ],
)
def test_weight_decay_is_the_official_one_but_for_the_temperature(
    small: Small, decay_temperature: bool, name: str, decays: bool
) -> None:
    workload = small(contrastive={"decay_temperature": decay_temperature})
    parameter = workload.model.student.get_parameter(name)
    spared, decayed = workload.parameter_groups()
    assert any(parameter is other for other in decayed.parameters) is decays
    assert any(parameter is other for other in spared.parameters) is not decays


@pytest.mark.parametrize("decay_temperature", [False, True])
def test_projections_and_temperature_learn_at_a_rate_of_their_own(small: Small, decay_temperature: bool) -> None:
    usual = small(contrastive={"decay_temperature": decay_temperature})
    faster = small(contrastive={"decay_temperature": decay_temperature, "learning_rate_scale": 8})
    names = {id(value): name for name, value in faster.model.student.named_parameters()}
    groups = {group.name: group for group in faster.parameter_groups()}
    scales = {names[id(value)]: group.learning_rate_scale for group in groups.values() for value in group.parameters}
    own = {name for name in scales if name.partition(".")[0] in ("vision_proj", "text_proj", "temp")}
    assert len(own) == 5
    assert scales == {name: 8.0 if name in own else 1.0 for name in names.values()}
    assert [len(group.parameters) for group in usual.parameter_groups()] == [
        len(groups[kind].parameters) + len(groups[f"projections_{kind}"].parameters) for kind in ("no_decay", "decay")
    ]
    assert len(groups["projections_decay"].parameters) == (3 if decay_temperature else 2)


@pytest.mark.parametrize("steps", [0, 2])
def test_bfloat16_autocast_stays_close_to_float32(
    small: Small, micro_batch: dict[str, Tensor], clock: At, steps: int
) -> None:
    settings = {"adversarial": {"steps": steps, "perturb": ("text", "image"), "step_size": 0.1}}
    exact = small(**settings)
    exact.model.float()
    expected = run(exact, micro_batch, clock(1))[0].metrics
    rounded = small(**settings)
    rounded.model.float()
    with torch.autocast("cpu", torch.bfloat16):
        result, gradients = run(rounded, micro_batch, clock(1))
    for name in ("loss_itc", "loss_itm", "loss_mlm"):
        assert float(result.metrics[name]) == pytest.approx(float(expected[name]), rel=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in result.shared.values())
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_building_twice_from_one_key_is_the_same(small: Small) -> None:
    torch.testing.assert_close(small().model.state_dict(), small().model.state_dict(), rtol=0, atol=0)
