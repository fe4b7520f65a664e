"""Three training steps against recorded values of the official ALBEF code.

The record (float64, dropout 0) holds the first state, one batch, every random draw, the losses and gradient norms of
each step, all gradients of the first step and norms of the last state.
"""

import json
from pathlib import Path

import pytest
import torch
from official_training import KEY, MODEL, TRAINING, Trained, named, our_name, train
from safetensors.torch import load_file
from torch import Tensor

from workloads.albef.config import AlbefConfig
from workloads.albef.workload import AlbefWorkload
from workloads.objectives.contrastive import Similarities
from workloads.objectives.masked_language import MaskedText
from workloads.objectives.matching import Negatives

DATA = Path(__file__).parents[1] / "data"
RECORD = json.loads((DATA / "albef_tiny.json").read_text())
TENSORS = load_file(DATA / "albef_tiny.safetensors")

CONFIG = AlbefConfig.model_validate({"model": MODEL} | TRAINING)


class RecordedChoices:
    def __init__(self, step: int) -> None:
        self.step = step

    def _tensor(self, name: str) -> Tensor:
        return TENSORS[f"draws/{self.step}/{name}"]

    def masked(self, input_ids_BL: Tensor) -> MaskedText:
        return MaskedText(self._tensor("mlm_input_ids"), self._tensor("mlm_labels"))

    def negatives(self, logits: Similarities, match_BB: Tensor) -> Negatives:
        return Negatives(self._tensor("negative_image_for_text"), self._tensor("negative_text_for_image"))


def official_state() -> dict[str, Tensor]:
    tied = ("position_ids", "decoder.weight", "decoder.bias")
    official = named(TENSORS, "init/")
    return {our_name(name): tensor.clone() for name, tensor in official.items() if not name.endswith(tied)}


@pytest.fixture(scope="module")
def trained() -> Trained:
    workload = AlbefWorkload(CONFIG, choices=lambda at: RecordedChoices(at.step))
    workload.build(torch.device("cpu"), KEY).double().load_state_dict(official_state())
    length_B = TENSORS["batch/attention_mask"].sum(1)
    batch = {"image": TENSORS["batch/image"], "input_ids": TENSORS["batch/input_ids"], "length": length_B}
    return train(workload, batch, steps=3)


@pytest.mark.parametrize("step", range(3))
def test_losses_agree(trained: Trained, step: int) -> None:
    ours, official = trained.history[step], RECORD["steps"][step]
    for name, recorded in {"loss_mlm": "loss_mlm", "loss_itc": "loss_ita", "loss_itm": "loss_itm"}.items():
        assert ours[name] == pytest.approx(official[recorded], rel=1e-9, abs=0), name
    assert ours["loss"] == pytest.approx(sum(official[k] for k in ("loss_mlm", "loss_ita", "loss_itm")), rel=1e-9)
    assert ours["grad_norm"] == pytest.approx(official["grad_norm"], rel=1e-9, abs=0)
    assert ours["queue_ptr"] == official["queue_ptr"]


def test_first_gradients_agree(trained: Trained) -> None:
    recorded, ours = named(TENSORS, "grad0/"), trained.first_gradients
    assert set(recorded) == set(ours)
    for name, gradient in recorded.items():
        scale = gradient.abs().max().clamp_min(1e-6)
        assert float((ours[name] - gradient).abs().max() / scale) <= 1e-7, name


def test_last_state_agrees(trained: Trained) -> None:
    state = trained.workload.model.state_dict()
    for name, norm in RECORD["final_norms"].items():
        assert float(state[our_name(name)].norm()) == pytest.approx(norm, rel=1e-9, abs=0), name


def test_state_has_every_official_tensor() -> None:
    workload = AlbefWorkload(CONFIG)
    ours = workload.build(torch.device("cpu"), KEY).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in official_state().items()
    }
