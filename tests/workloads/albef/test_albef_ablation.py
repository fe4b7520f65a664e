"""Each row of ALBEF's ablation trains exactly its objectives and asks the teacher for nothing more."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orchestrator.config.loading import load_recipe
from workloads.albef.config import AlbefConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, KeyedRandom, MicroResult

SMALL = [
    "data.train=shards",
    "model.image_size=32",
    "model.embed_dim=8",
    "model.dropout=0.0",
    "model.vision={patch: 16, width: 16, depth: 1, heads: 2}",
    "model.text={width: 24, layers: 1, fusion_layers: 2, heads: 2, vocabulary: 200, positions: 32}",
    "contrastive.queue_size=512",
    "distillation.ramp_epochs=0",
]
RECIPES = Path("workloads/recipes")
ROWS = {
    "ablation/albef-4m-mlm-itm.yaml": {"loss_itm", "loss_mlm"},
    "ablation/albef-4m-itc.yaml": {"loss_itc", "loss_itm", "loss_mlm"},
    "ablation/albef-4m-hard-negatives.yaml": {"loss_itc", "loss_itm", "loss_mlm"},
    "ablation/albef-4m-itc-mod.yaml": {"loss_itc", "loss_itm", "loss_mlm"},
    "albef-4m.yaml": {"loss_itc", "loss_itm", "loss_mlm"},
}
UNIMODAL = {"visual_encoder", "vision_proj", "text_proj", "text layer 0"}
NEEDED = {
    "ablation/albef-4m-mlm-itm.yaml": set(),
    "ablation/albef-4m-itc.yaml": UNIMODAL,
    "ablation/albef-4m-hard-negatives.yaml": UNIMODAL,
    "ablation/albef-4m-itc-mod.yaml": UNIMODAL,
    "albef-4m.yaml": UNIMODAL | {"fusion layer 1", "fusion layer 2", "word head"},
}
"""Parts of the teacher that a row needs."""

PARTS = {
    "visual_encoder": "visual_encoder.norm",
    "vision_proj": "vision_proj",
    "text_proj": "text_proj",
    "text layer 0": "text_encoder.bert.encoder.layer.0.intermediate",
    "fusion layer 1": "text_encoder.bert.encoder.layer.1.intermediate",
    "fusion layer 2": "text_encoder.bert.encoder.layer.2.intermediate",
    "word head": "text_encoder.cls.predictions.transform",
}


def built(recipe: str, *overrides: str) -> AlbefWorkload:
    config = load_recipe(RECIPES / recipe, [*SMALL, *overrides]).workload
    assert isinstance(config, AlbefConfig)
    workload = AlbefWorkload(config)
    workload.build(torch.device("cpu"), KeyedRandom((7,)), pretrained=False)
    with torch.no_grad():  # the first weights are so small that all similarities would be equal
        for parameter in workload.model.student.visual_encoder.parameters():
            parameter.normal_(std=0.3, generator=KeyedRandom((parameter.numel(),)).torch())
    workload.model.init_teacher()
    return workload


def backward(loss: Tensor, **_: bool) -> None:
    loss.backward()


def step(workload: AlbefWorkload, batch: dict[str, Tensor], clock: Clock) -> MicroResult:
    workload.begin_step(clock)
    return workload.micro_step(batch, clock, backward)


@pytest.mark.parametrize("recipe", ROWS)
def test_it_trains_its_objectives_and_no_other(
    recipe: str, micro_batch: dict[str, Tensor], clock: Callable[[int], Clock]
) -> None:
    workload = built(recipe)
    result = step(workload, micro_batch, clock(1))
    losses = {name for name in result.metrics if name.startswith("loss_")}
    assert losses == ROWS[recipe]
    assert all(float(result.metrics[name]) > 0 for name in losses)
    assert float(result.metrics["loss"]) == pytest.approx(sum(float(result.metrics[name]) for name in losses))
    assert set(result.shared) == ({"image_features", "text_features"} if "loss_itc" in losses else set())


@pytest.mark.parametrize("recipe", ROWS)
def test_untrained_heads_get_no_gradient(
    recipe: str, micro_batch: dict[str, Tensor], clock: Callable[[int], Clock]
) -> None:
    student = (workload := built(recipe)).model.student
    step(workload, micro_batch, clock(1))
    compared = "loss_itc" in ROWS[recipe]
    for parameter in (student.vision_proj.weight, student.text_proj.weight, student.temp):
        assert (parameter.grad is not None and bool(parameter.grad.any())) is compared
    for parameter in (student.itm_head.weight, student.text_encoder.cls.predictions.bias):
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.parametrize("recipe", ROWS)
def test_the_teacher_runs_what_the_row_needs(
    recipe: str, micro_batch: dict[str, Tensor], clock: Callable[[int], Clock]
) -> None:
    workload, executed = built(recipe), set()
    for part, name in PARTS.items():
        workload.model.teacher.get_submodule(name).register_forward_hook(lambda *_, part=part: executed.add(part))
    step(workload, micro_batch, clock(1))
    assert executed == NEEDED[recipe]


@pytest.mark.parametrize(
    ("objective", "name"), [("contrastive", "loss_itc"), ("masked_language", "loss_mlm")], ids=["itc", "mlm"]
)
def test_each_distillation_switch_changes_its_own_loss_alone(
    objective: str, name: str, micro_batch: dict[str, Tensor], clock: Callable[[int], Clock]
) -> None:
    both = step(built("albef-4m.yaml"), micro_batch, clock(1)).metrics
    switched_off = step(built("albef-4m.yaml", f"distillation.{objective}=false"), micro_batch, clock(1)).metrics
    changed = {loss for loss in ("loss_itc", "loss_itm", "loss_mlm") if float(both[loss]) != float(switched_off[loss])}
    assert changed == {name}


def test_even_negatives_change_matching_alone(micro_batch: dict[str, Tensor], clock: Callable[[int], Clock]) -> None:
    hard, even = (
        step(
            built("albef-4m.yaml", f"matching.hard_negatives={hard}", "contrastive.temperature=1e-3"),
            micro_batch,
            clock(1),
        ).metrics
        for hard in ("true", "false")
    )
    changed = {loss for loss in ("loss_itc", "loss_itm", "loss_mlm") if float(hard[loss]) != float(even[loss])}
    assert changed == {"loss_itm"}
