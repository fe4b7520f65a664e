from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from workloads.albef.config import AlbefConfig
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Evaluation, KeyedRandom, Sample, evaluate_samples
from workloads.downstream.retrieval_options import RetrievalOptions

COLOURS = ("red", "green", "blue", "yellow", "purple", "white", "black", "grey")


@pytest.fixture(scope="module")
def workload() -> AlbefWorkload:
    sizes = {
        "image_size": 32,
        "vision": {"patch": 16, "width": 16, "depth": 1, "heads": 2},
        "text": {"width": 16, "layers": 1, "fusion_layers": 2, "heads": 2, "vocabulary": 30522, "positions": 16},
        "embed_dim": 8,
        "vision_weights": None,
        "text_weights": None,
    }
    config = AlbefConfig.model_validate({"model": sizes, "text": {"tokenizer": "minilm", "max_tokens": 12}})
    built = AlbefWorkload(config)
    built.build(torch.device("cpu"), KeyedRandom((0,)))
    return built


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    made = []
    for colour in COLOURS:
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40), colour).save(buffer, "PNG")
        made.append(Sample(colour, buffer.getvalue(), (f"an unremarkably {colour} square",)))
    return made


def measured(workload: AlbefWorkload, samples: list[Sample], options: RetrievalOptions) -> Evaluation:
    with workload.evaluator(options) as evaluator:
        return evaluate_samples(evaluator, samples, options)


def maps_of(evaluation: Evaluation) -> list[np.ndarray]:
    rows = evaluation.galleries[-1].rows
    return [np.stack([picture.map_HW for picture in row.pictures if picture.map_HW is not None]) for row in rows]


def test_a_real_model_is_measured_the_same_in_any_batch_size(workload: AlbefWorkload, samples: list[Sample]) -> None:
    results = [
        measured(workload, samples, RetrievalOptions(batch_size=size, rerank=4, gallery=2, heat_maps=3))
        for size in (3, 8)
    ]
    assert results[0].metrics == results[1].metrics
    assert results[0].metrics["text_to_image/chance@1"] == pytest.approx(1 / 8)
    for one, two in zip(maps_of(results[0]), maps_of(results[1]), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_real_model_shows_a_map_for_every_word(workload: AlbefWorkload, samples: list[Sample]) -> None:
    evaluation = measured(workload, samples, RetrievalOptions(rerank=0, gallery=0, heat_maps=8))
    assert [row.pictures[-2].text for row in evaluation.galleries[0].rows] == list(COLOURS)
    for maps_WHW in maps_of(evaluation):
        assert maps_WHW.shape == (4, 2, 2)
        assert (maps_WHW >= 0).all()
        assert maps_WHW.max() <= 1
