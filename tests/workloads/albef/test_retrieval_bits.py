"""Evaluating a real model in float64: the same to the last bit, however samples and pairs are cut into pieces."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from workloads.albef.config import AlbefConfig
from workloads.albef.model import AlbefInference
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Chunk, Evaluation, KeyedRandom, Sample
from workloads.contract.evaluation import cut
from workloads.downstream import reranking
from workloads.downstream.reranking import MATCH
from workloads.downstream.retrieval import RetrievalEvaluator
from workloads.downstream.retrieval_options import RetrievalOptions
from workloads.nn.vision import TextFeatures
from workloads.transforms.pairs import EvaluationTransform

CONFIG = AlbefConfig.model_validate(
    {
        "model": {
            "image_size": 32,
            "vision": {"patch": 8, "width": 24, "depth": 2, "heads": 2},
            "text": {"width": 48, "layers": 1, "fusion_layers": 2, "heads": 3, "vocabulary": 30522, "positions": 40},
            "embed_dim": 16,
            "vision_weights": None,
            "text_weights": None,
        },
        "text": {"tokenizer": "minilm", "max_tokens": 40, "max_words": 40},
    }
)
TRANSFORM = EvaluationTransform((32, 32), CONFIG.text)
Match = dict[tuple[int, int], float]


@pytest.fixture(scope="module")
def inference() -> Iterator[AlbefInference]:
    student = AlbefWorkload(CONFIG).build(torch.device("cpu"), KeyedRandom((5,))).student.double()
    with torch.no_grad():
        for number, parameter in enumerate(student.parameters()):
            parameter.normal_(std=0.2, generator=KeyedRandom(("weights", number)).torch())
    with AlbefInference.eval_mode(student, CONFIG.model) as borrowed:
        yield borrowed


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    random = KeyedRandom(("samples",)).numpy()
    made = []
    for number in range(13):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        captions = tuple(f"{number} " + "word " * int(random.integers(1, 36)) for _ in range(3))
        made.append(Sample(str(number), buffer.getvalue(), captions))
    return made


def evaluate(inference: AlbefInference, samples: list[Sample], block: int, batch_size: int) -> tuple[Match, Evaluation]:
    """Return the match logit of every scored pair, and the outcome."""
    options = RetrievalOptions(rerank=5, rerank_texts=9, batch_size=batch_size, gallery=3, heat_maps=0)
    evaluator = RetrievalEvaluator(inference, TRANSFORM, options)
    parts = [evaluator.encode(one) for one in cut(samples, block)]
    features = {(number, name): array for number, part in enumerate(parts) for name, array in part.features.items()}
    summaries = [part.summary for part in parts]
    chunks = evaluator.plan(summaries)
    results = [evaluator.score(chunk, features, {}) for chunk in chunks]
    found: Match = {}
    for chunk, result in zip(chunks, results, strict=True):
        found |= dict(zip(pairs_of(chunk), result.arrays[MATCH].tolist(), strict=True))
    return found, evaluator.finish(summaries, chunks, results)


def pairs_of(chunk: Chunk) -> list[tuple[int, int]]:
    return list(zip(chunk.task.arrays["text"].tolist(), chunk.task.arrays["image"].tolist(), strict=True))


def test_blocks_and_chunks_of_any_size_give_the_same_bits(
    inference: AlbefInference, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, evaluation = evaluate(inference, samples, block=100, batch_size=8)
    assert any(value != 0 for value in scores.values())
    for block, batch_size, pairs in ((1, 8, 1), (5, 16, 30), (13, 64, 8192)):
        monkeypatch.setattr(reranking, "CHUNK_PAIRS", pairs)
        assert evaluate(inference, samples, block, batch_size) == (scores, evaluation)


@torch.no_grad()
def test_grouped_scores_are_those_of_pairs(inference: AlbefInference, samples: list[Sample]) -> None:
    scores, _ = evaluate(inference, samples, block=100, batch_size=8)
    captions = dict.fromkeys(caption for sample in samples for caption in TRANSFORM.captions(sample))
    tokens = [TRANSFORM.tokens(caption) for caption in captions]
    texts = inference.encode_texts(
        torch.from_numpy(np.stack([one.input_ids for one in tokens])),
        torch.from_numpy(np.stack([one.length for one in tokens])),
    )
    images = inference.encode_images(torch.from_numpy(np.stack([TRANSFORM.image(sample) for sample in samples])))
    text_P, image_P = (torch.tensor(column) for column in zip(*scores, strict=True))
    text = TextFeatures(texts.states_BLD[text_P], texts.mask_BL[text_P], texts.embedding_BE[text_P])
    image = type(images)(images.tokens_BND[image_P], images.embedding_BE[image_P])
    expected_P = inference.match_scores(text, image)[:, 1]
    found_P = torch.tensor(list(scores.values()), dtype=torch.float64)
    torch.testing.assert_close(found_P, expected_P, rtol=1e-10, atol=1e-10)
