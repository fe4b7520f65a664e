"""What fine-tuning for retrieval takes from a checkpoint of pre-training: exactly what the official script takes.

The record is a state of pre-training at 32 pixels, and where each tensor of the official fine-tuning model at 48 pixels
comes from, with a digest.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from workloads.albef.config import AlbefConfig, PairsConfig, deep_merge
from workloads.albef.model import AlbefModel
from workloads.albef.retrieval import ENTRY, RetrievalConfig
from workloads.contract import FineTuningEntry, ForeignCheckpoint, KeyedRandom, WorkloadError
from workloads.interop.albef_files import read_albef
from workloads.interop.albef_layout import CheckpointLayout

DATA = Path(__file__).parents[1] / "data"
OFFICIAL = json.loads((DATA / "albef_loading.json").read_text())["models"]["retrieval"]
TENSORS = load_file(DATA / "albef_loading.safetensors")
HEADS = {"model": {"vision": {"heads": 3}, "text": {"heads": 3}}}
LAYOUT = CheckpointLayout("retrieval", text_layers=2)


def wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> ForeignCheckpoint:
    file = tmp_path_factory.mktemp("official") / "ALBEF.pth"
    official = {name.removeprefix("ckpt/"): wide(tensor) for name, tensor in TENSORS.items() if name[:5] == "ckpt/"}
    torch.save({"model": official, "epoch": 29}, file)
    return read_albef(file, HEADS)


@pytest.fixture(scope="module")
def source(imported: ForeignCheckpoint) -> AlbefConfig:
    assert isinstance(imported.config, AlbefConfig)
    return imported.config


def finetuned(source: PairsConfig, **model: object) -> RetrievalConfig:
    values = source.model_dump(include={"model", "contrastive"})
    return RetrievalConfig.model_validate(deep_merge(values, {"model": model}))


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


def test_every_tensor_is_the_official_one(imported: ForeignCheckpoint, source: AlbefConfig) -> None:
    fitted = ENTRY.fit_start(finetuned(source, image_size=48), source, imported.state)
    for name, (origin, *expected) in OFFICIAL["state"].items():
        if origin == "arange":
            continue  # position ids, which our model has no tensor for
        ours = fitted[LAYOUT.our_name(name) or ""]
        if origin == "resized":
            torch.testing.assert_close(ours, TENSORS[f"retrieval/{name}"], rtol=1e-12, atol=1e-12)
        elif origin.startswith("ckpt:"):
            assert [digest(ours)] == expected, name
        else:
            assert (name, origin) == ("idx_queue", "own initial value")
            assert ours.shape == (1, 16)
            assert ours.eq(-100).all()


def test_the_state_is_complete(imported: ForeignCheckpoint, source: AlbefConfig) -> None:
    config = finetuned(source, image_size=48)
    model = AlbefModel(config, KeyedRandom((0,))).double()
    fitted = ENTRY.fit_start(config, source, imported.state)
    model.load_state_dict(fitted)
    extra = set(fitted) - {LAYOUT.our_name(name) for name in OFFICIAL["state"]}
    assert all(".text_encoder.cls." in name for name in extra)


def test_images_may_be_of_two_sides(imported: ForeignCheckpoint, source: AlbefConfig) -> None:
    fitted = ENTRY.fit_start(finetuned(source, image_size=[48, 64]), source, imported.state)
    assert fitted["teacher.visual_encoder.pos_embed"].shape == (1, 1 + 3 * 4, 48)


def test_a_fine_tuned_model_keeps_its_image_ids(imported: ForeignCheckpoint, source: AlbefConfig) -> None:
    config = finetuned(source)
    ids = torch.arange(16)[None]
    fitted = ENTRY.fit_start(config, config, {**imported.state, "queue.idx_queue": ids})
    assert fitted["queue.idx_queue"] is ids
    assert all(fitted[name] is tensor for name, tensor in imported.state.items())


def test_positions_of_oblong_images_are_not_resized(imported: ForeignCheckpoint, source: AlbefConfig) -> None:
    oblong = finetuned(source, image_size=[32, 64])
    with pytest.raises(WorkloadError, match=r"model.image_size: only .* square .*; set model.image_size=\[32,64\]"):
        ENTRY.fit_start(finetuned(source, image_size=48), oblong, imported.state)


def named(encoder: str, size: int) -> RetrievalConfig:
    model = {"preset": "tiny", "image_size": size, "vision": {"name": encoder}, "vision_weights": None}
    return RetrievalConfig.model_validate({"model": model, "contrastive": {"queue_size": 0}})


def test_a_named_encoder_without_positions_takes_another_size() -> None:
    source, config = named("test_efficientnet", 64), named("test_efficientnet", 96)
    state = AlbefModel(source, KeyedRandom((0,))).state_dict()
    AlbefModel(config, KeyedRandom((1,))).load_state_dict(ENTRY.fit_start(config, source, state))


def test_a_named_encoder_with_positions_does_not() -> None:
    source, config = named("test_vit", 64), named("test_vit", 96)
    state = AlbefModel(source, KeyedRandom((0,))).state_dict()
    with pytest.raises(WorkloadError, match=r"pos_embed of test_vit is \[.*\] there .*; set model.image_size=64"):
        ENTRY.fit_start(config, source, state)


def test_the_entry_offers_it() -> None:
    assert isinstance(ENTRY, FineTuningEntry)
    assert (ENTRY.starts_from, ENTRY.fitted_keys) == (("albef",), ("model.image_size",))
