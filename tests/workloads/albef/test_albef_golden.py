"""Three training steps against recorded values of the official ALBEF code.

The record (float64, dropout 0) holds the first state, one batch, every random draw, the losses and gradient norms of
each step, all gradients of the first step and norms of the last state.
"""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from workloads.albef.config import AlbefConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, KeyedRandom
from workloads.objectives.contrastive import Similarities
from workloads.objectives.masked_language import MaskedText
from workloads.objectives.matching import Negatives

Trained = tuple[AlbefWorkload, list[dict[str, float]], dict[str, Tensor]]

DATA = Path(__file__).parents[1] / "data"
RECORD = json.loads((DATA / "albef_tiny.json").read_text())
TENSORS = load_file(DATA / "albef_tiny.safetensors")
KEY = KeyedRandom((0,))

CONFIG = AlbefConfig.model_validate(
    {
        "model": {
            "image_size": 32,
            "vision": {"patch": 16, "width": 48, "depth": 2, "heads": 3},
            "text": {"width": 48, "layers": 2, "fusion_layers": 2, "heads": 3, "vocabulary": 300},
            "embed_dim": 32,
            "dropout": 0.0,
            "vision_weights": None,
            "text_weights": None,
        },
        "contrastive": {"queue_size": 16, "decay_temperature": True},
        "distillation": {"ramp_epochs": 0.0},
    }
)


class RecordedChoices:
    def __init__(self, step: int) -> None:
        self.step = step

    def _tensor(self, name: str) -> Tensor:
        return TENSORS[f"draws/{self.step}/{name}"]

    def masked(self, input_ids_BL: Tensor) -> MaskedText:
        return MaskedText(self._tensor("mlm_input_ids"), self._tensor("mlm_labels"))

    def negatives(self, logits: Similarities, match_BB: Tensor) -> Negatives:
        return Negatives(self._tensor("negative_image_for_text"), self._tensor("negative_text_for_image"))


def our_name(official: str) -> str:
    """Where a tensor of the official state lives in AlbefModel."""
    if official in ("image_queue", "text_queue", "queue_ptr"):
        return f"queue.{official}"
    part, _, rest = official.partition(".")
    owner = "teacher" if part.endswith("_m") else "student"
    return ".".join(filter(None, [owner, part.removesuffix("_m"), rest]))


def official_state() -> dict[str, Tensor]:
    tied = ("position_ids", "decoder.weight", "decoder.bias")
    named = {name.removeprefix("init/"): tensor for name, tensor in TENSORS.items() if name.startswith("init/")}
    return {our_name(name): tensor.clone() for name, tensor in named.items() if not name.endswith(tied)}


def clock(step: int) -> Clock:
    return Clock(step, steps=3, samples=4 * step, epoch_samples=4, draw=KEY.child(step))


@pytest.fixture(scope="module")
def trained() -> tuple[AlbefWorkload, list[dict[str, float]], dict[str, Tensor]]:
    workload = AlbefWorkload(CONFIG, choices=lambda at: RecordedChoices(at.step))
    workload.build(torch.device("cpu"), KEY).double().load_state_dict(official_state())
    groups = [
        {"params": list(group.parameters), "weight_decay": 0.02 if group.weight_decay else 0.0}
        for group in workload.parameter_groups()
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    length_B = TENSORS["batch/attention_mask"].sum(1)
    batch = {"image": TENSORS["batch/image"], "input_ids": TENSORS["batch/input_ids"], "length": length_B}
    history, first_gradients = [], {}
    for step in range(3):
        optimizer.zero_grad()
        workload.begin_step(clock(step))
        result = workload.micro_step(batch, clock(step), lambda loss, retain_graph=False, final=False: loss.backward())
        gradients = {name: p.grad.clone() for name, p in workload.model.student.named_parameters()}
        first_gradients = first_gradients or gradients
        norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
        optimizer.step()
        workload.end_step(clock(step), result.shared)
        pointer = int(workload.model.queue.queue_ptr)
        history.append({**{k: float(v) for k, v in result.metrics.items()}, "grad_norm": norm, "queue_ptr": pointer})
    return workload, history, first_gradients


@pytest.mark.parametrize("step", range(3))
def test_losses_agree(trained: Trained, step: int) -> None:
    _, history, _ = trained
    ours, official = history[step], RECORD["steps"][step]
    for name, recorded in {"loss_mlm": "loss_mlm", "loss_itc": "loss_ita", "loss_itm": "loss_itm"}.items():
        assert ours[name] == pytest.approx(official[recorded], rel=1e-9, abs=0), name
    assert ours["loss"] == pytest.approx(sum(official[k] for k in ("loss_mlm", "loss_ita", "loss_itm")), rel=1e-9)
    assert ours["grad_norm"] == pytest.approx(official["grad_norm"], rel=1e-9, abs=0)
    assert ours["queue_ptr"] == official["queue_ptr"]


def test_first_gradients_agree(trained: Trained) -> None:
    recorded = {name.removeprefix("grad0/"): t for name, t in TENSORS.items() if name.startswith("grad0/")}
    _, _, ours = trained
    assert set(recorded) == set(ours)
    for name, gradient in recorded.items():
        scale = gradient.abs().max().clamp_min(1e-6)
        assert float((ours[name] - gradient).abs().max() / scale) <= 1e-7, name


def test_last_state_agrees(trained: Trained) -> None:
    state = trained[0].model.state_dict()
    for name, norm in RECORD["final_norms"].items():
        assert float(state[our_name(name)].norm()) == pytest.approx(norm, rel=1e-9, abs=0), name


def test_state_has_every_official_tensor() -> None:
    workload = AlbefWorkload(CONFIG)
    ours = workload.build(torch.device("cpu"), KEY).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in official_state().items()
    }
