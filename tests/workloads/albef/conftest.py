"""A small ALBEF, in float64 and without dropout unless said otherwise, and a micro-batch for it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from workloads.albef.config import AlbefConfig, PairsConfig, deep_merge
from workloads.albef.retrieval import RetrievalConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Clock, KeyedRandom

SMALL = {
    "model": {
        "image_size": 32,
        "vision": {"patch": 16, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 24, "layers": 1, "fusion_layers": 2, "heads": 2, "vocabulary": 200, "positions": 16},
        "embed_dim": 8,
        "dropout": 0.0,
        "vision_weights": None,
        "text_weights": None,
    },
    "text": {"tokenizer": "minilm"},
    "contrastive": {"queue_size": 12},
    "distillation": {"ramp_epochs": 0.0},
}


@pytest.fixture
def without_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `torch.compile` capture the graphs of both passes and run them as they are: its C++ takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def build_small(config_type: type[PairsConfig], **values: Any) -> AlbefWorkload:
    workload = AlbefWorkload(config_type.model_validate(deep_merge(SMALL, values)))
    model = workload.build(torch.device("cpu"), KeyedRandom((7,))).double()
    with torch.no_grad():
        for parameter in model.student.parameters():
            if parameter.ndim:
                parameter.normal_(std=0.2, generator=KeyedRandom((parameter.numel(),)).torch())
    return workload


@pytest.fixture
def small() -> Callable[..., AlbefWorkload]:
    return partial(build_small, AlbefConfig)


@pytest.fixture
def small_retrieval() -> Callable[..., AlbefWorkload]:
    return partial(build_small, RetrievalConfig)


@pytest.fixture
def micro_batch() -> dict[str, Tensor]:
    generator = KeyedRandom((1,)).torch()
    length = torch.tensor([9, 6, 3, 7], dtype=torch.int32)
    ids = torch.randint(104, 200, (4, 12), generator=generator, dtype=torch.int32)
    ids[:, 0] = 101
    ids[torch.arange(12) >= length[:, None]] = 0
    image = torch.randint(256, (4, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {"image": image, "input_ids": ids, "length": length}


@pytest.fixture
def clock() -> Callable[[int], Clock]:
    def at(step: int = 0) -> Clock:
        return Clock(step, steps=10, samples=4 * step, epoch_samples=20, draw=KeyedRandom((3, step)))

    return at
