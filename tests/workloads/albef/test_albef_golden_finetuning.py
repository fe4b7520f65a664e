"""Two steps of fine-tuning for retrieval against recorded values of the official ALBEF code, in float64.

The record holds the first state, a batch in which two of four rows are of one image, a queue with ids of the batch, the
drawn negatives, what is computed on the way, the first step's gradients and the last state.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from official_training import KEY, MODEL, TRAINING, Trained, named, our_name, train
from safetensors.torch import load_file
from torch import Tensor

from workloads.albef.config import deep_merge
from workloads.albef.retrieval import RetrievalConfig
from workloads.albef.workload import AlbefWorkload
from workloads.objectives.contrastive import Similarities, contrastive_targets, same_image
from workloads.objectives.masked_language import MaskedText
from workloads.objectives.matching import Negatives, negative_weights

DATA = Path(__file__).parents[1] / "data"
RECORD = json.loads((DATA / "albef_retrieval.json").read_text())
TENSORS = {
    name: tensor.double() if tensor.is_floating_point() else tensor
    for name, tensor in load_file(DATA / "albef_retrieval.safetensors").items()
}
STEPS = range(2)
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}

CONFIG = RetrievalConfig.model_validate({"model": deep_merge(MODEL, {"text": {"positions": 40}})} | TRAINING)


class RecordedNegatives:
    """Checks what negatives are drawn by, and hands out those that the official code drew."""

    def __init__(self, step: int) -> None:
        self.step = step

    def masked(self, input_ids_BL: Tensor) -> MaskedText:
        raise AssertionError("no words are masked")

    def negatives(self, logits: Similarities, match_BB: Tensor) -> Negatives:
        for official, ours in {"t2i": logits.text_to_image, "i2t": logits.image_to_text}.items():
            weights_BB = TENSORS[f"out/{self.step}/weights_{official}"]
            expected_BB = weights_BB / weights_BB.sum(1, keepdim=True)
            torch.testing.assert_close(negative_weights(ours, match_BB, hard=True), expected_BB, **CLOSE)
        drawn = f"draws/{self.step}/"
        return Negatives(TENSORS[f"{drawn}negative_image_for_text"], TENSORS[f"{drawn}negative_text_for_image"])


@pytest.fixture(scope="module")
def trained() -> Trained:
    workload = AlbefWorkload(CONFIG, choices=lambda at: RecordedNegatives(at.step))
    model = workload.build(torch.device("cpu"), KEY, pretrained=False).double()
    official = named(TENSORS, "init/")
    state = {our_name(name): tensor for name, tensor in official.items() if not name.endswith("position_ids")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(".text_encoder.cls." in name for name in missing)
    assert [len(group.parameters) for group in workload.parameter_groups()] == RECORD["optimizer_groups"]
    length_B = TENSORS["batch/attention_mask"].sum(1)
    ids, image_id_B = TENSORS["batch/input_ids"], TENSORS["batch/idx"]
    batch = {"image": TENSORS["batch/image"], "input_ids": ids, "length": length_B, "image_id": image_id_B}
    return train(workload, batch, len(STEPS))


@pytest.mark.parametrize("step", STEPS)
def test_losses_agree(trained: Trained, step: int) -> None:
    ours, official = trained.history[step], RECORD["steps"][step]
    for name, recorded in {"loss_itc": "loss_ita", "loss_itm": "loss_itm", "loss": "loss"}.items():
        assert ours[name] == pytest.approx(official[recorded], rel=1e-9, abs=0), name
    assert ours["grad_norm"] == pytest.approx(official["grad_norm"], rel=1e-9, abs=0)
    assert (ours["queue_ptr"], ours["itm_skipped"]) == (official["queue_ptr"], 0)


@pytest.mark.parametrize("step", STEPS)
def test_targets_agree(step: int) -> None:
    """Two rows of one image share their label, with the queue's features of that image as well."""
    image_id_B = TENSORS["batch/idx"]
    queued_Q = TENSORS["init/idx_queue"][0].clone()
    queued_Q[8 : 8 + 4 * step] = image_id_B.repeat(step)
    positive_BK = same_image(image_id_B, torch.cat([image_id_B, queued_Q]))
    logits = Similarities(torch.zeros(4, 20).double(), torch.zeros(4, 20).double())
    labels_BK = contrastive_targets(logits, 0.0, positive_BK).image_to_text
    torch.testing.assert_close(labels_BK, TENSORS[f"out/{step}/sim_targets"], **CLOSE)


def digest(tensor: Tensor) -> list[float]:
    flat = tensor.detach().double().flatten()
    return [float(flat.norm()), float(flat @ torch.arange(len(flat)).double().cos())]


def assert_digest(tensor: Tensor, expected: list[float], tolerance: float, name: str) -> None:
    allowed = tolerance * expected[0] + 1e-12
    assert digest(tensor) == [pytest.approx(value, rel=0, abs=allowed) for value in expected], name


def test_first_gradients_agree(trained: Trained) -> None:
    recorded, ours = named(TENSORS, "grad0/"), trained.first_gradients
    assert {our_name(name).removeprefix("student.") for name in RECORD["grad0"]} == set(ours)
    for name, expected in RECORD["grad0"].items():
        gradient = ours[our_name(name).removeprefix("student.")]
        assert_digest(gradient, expected, 1e-9, name)
        rows = gradient[:: RECORD["grad0_row_stride"][name]] if name in RECORD["grad0_row_stride"] else gradient
        difference = (rows - recorded[name]).abs().max()
        assert float(difference) <= 1e-7 * float(recorded[name].abs().max()) + 1e-12, name


def test_last_state_agrees(trained: Trained) -> None:
    state = trained.workload.model.state_dict()
    for name, expected in RECORD["final"].items():
        if not name.endswith("position_ids"):
            assert_digest(state[our_name(name)], expected, 1e-9, name)
    for name, tensor in named(TENSORS, "final/").items():
        torch.testing.assert_close(state[our_name(name)], tensor, **(CLOSE if tensor.is_floating_point() else {}))


def test_the_word_heads_stay_as_they_came(trained: Trained) -> None:
    state = trained.workload.model.state_dict()
    fresh = AlbefWorkload(CONFIG).build(torch.device("cpu"), KEY, pretrained=False).state_dict()
    heads = [name for name in state if ".text_encoder.cls." in name]
    assert heads
    for name in heads:
        assert torch.equal(state[name], fresh[name].double()), name
