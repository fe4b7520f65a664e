"""Retrieval of a tiny model against recorded values of the official ALBEF code, in float64.

The record is the state and the evaluation of 6 images with two texts each: similarities, and the matching logits of the
k best pairs of each direction, -100 elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from official_training import MODEL, named, our_name
from safetensors.torch import load_file
from torch import Tensor

from workloads.albef.config import AlbefConfig, deep_merge
from workloads.albef.model import AlbefInference
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Block, Chunk, Evaluation, KeyedRandom, Record, Sample
from workloads.downstream.ranking import rank_by_similarity
from workloads.downstream.reranking import MATCH
from workloads.downstream.retrieval import RetrievalEvaluator
from workloads.downstream.retrieval_options import RetrievalOptions
from workloads.downstream.retrieval_set import RetrievalSet
from workloads.transforms.pairs import EvaluationTransform, Tokens

DATA = Path(__file__).parents[1] / "data"
TENSORS = load_file(DATA / "albef_retrieval.safetensors")
RUNS = json.loads((DATA / "albef_retrieval.json").read_text())["eval"]["runs"]
UNSCORED = -100.0
OFFICIAL_NAMES = {"txt": "image_to_text", "img": "text_to_image"}
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}

CONFIG = AlbefConfig.model_validate({"model": deep_merge(MODEL, {"text": {"positions": 40}})})


class RecordedTransform(EvaluationTransform):
    """Hands out the recorded pixels and token ids; keys and captions are their numbers."""

    def image(self, sample: Sample) -> np.ndarray:
        return TENSORS["eval/image"][int(sample.key)].double().numpy()

    def captions(self, sample: Sample) -> tuple[str, ...]:
        return sample.captions

    def tokens(self, caption: str) -> Tokens:
        mask_L = TENSORS["eval/attention_mask"][int(caption)]
        ids_L = TENSORS["eval/input_ids"][int(caption)] * mask_L
        return Tokens(ids_L.numpy().astype(np.int32), mask_L.sum().int().numpy())


class Measured(NamedTuple):
    """Everything that an evaluation of the record gives."""

    items: RetrievalSet
    match_TI: Tensor
    evaluation: Evaluation


@pytest.fixture(scope="module")
def inference() -> Iterator[AlbefInference]:
    workload = AlbefWorkload(CONFIG)
    student = workload.build(torch.device("cpu"), KeyedRandom((0,))).student.double()
    official = {our_name(name): tensor for name, tensor in named(TENSORS, "init/").items()}
    state = {name: tensor for name, tensor in named(official, "student.").items() if not name.endswith("position_ids")}
    missing, unexpected = student.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(name.startswith("text_encoder.cls.") for name in missing)
    with AlbefInference.eval_mode(student, CONFIG.model) as borrowed:
        yield borrowed


def measure(inference: AlbefInference, top: int) -> Measured:
    options = RetrievalOptions(rerank=top, texts="all", gallery=0, heat_maps=0, batch_size=8)
    evaluator = RetrievalEvaluator(inference, RecordedTransform((32, 32), CONFIG.text), options)
    samples = [Sample(str(row), b"", (str(2 * row), str(2 * row + 1))) for row in range(6)]
    blocks = [Block(0, (0, 1, 2, 3), tuple(samples[:4])), Block(1, (4, 5), tuple(samples[4:]))]
    parts = [evaluator.encode(block) for block in blocks]
    summaries = [part.summary for part in parts]
    features = {(number, name): array for number, part in enumerate(parts) for name, array in part.features.items()}
    chunks = evaluator.plan(summaries)
    results = [evaluator.score(chunk, features, {}) for chunk in chunks]
    evaluation = evaluator.finish(summaries, chunks, results)
    return Measured(RetrievalSet.of(summaries, "all"), matrix(chunks, results), evaluation)


def matrix(chunks: Sequence[Chunk], results: Sequence[Record]) -> Tensor:
    match_TI = torch.full((12, 6), torch.nan, dtype=torch.float64)
    for chunk, result in zip(chunks, results, strict=True):
        text_P, image_P = (torch.from_numpy(chunk.task.arrays[name]).long() for name in ("text", "image"))
        match_TI[text_P, image_P] = torch.from_numpy(result.arrays[MATCH])
    return match_TI


def test_embeddings_and_similarities_agree(inference: AlbefInference) -> None:
    items = measure(inference, 4).items
    torch.testing.assert_close(items.image_IE, TENSORS["eval/image_feat"], **CLOSE)
    torch.testing.assert_close(items.text_TE, TENSORS["eval/text_feat"], **CLOSE)
    torch.testing.assert_close(items.image_IE @ items.text_TE.T, TENSORS["eval/similarity"], **CLOSE)


@pytest.mark.parametrize("top", [4, 6])
def test_matching_scores_agree_and_so_do_the_pairs_that_have_one(inference: AlbefInference, top: int) -> None:
    measured = measure(inference, top)
    items, relevance = measured.items, measured.items.relevance
    directions = {
        "score_t2i": (rank_by_similarity(items.text_TE, items.image_IE, relevance, top), measured.match_TI),
        "score_i2t": (rank_by_similarity(items.image_IE, items.text_TE, relevance.reverse, top), measured.match_TI.T),
    }
    for name, (ranking, match_QG) in directions.items():
        found_QG = torch.full_like(match_QG, UNSCORED)
        best_QK = ranking.best_QK.long()
        found_QG.scatter_(1, best_QK, match_QG.gather(1, best_QK))
        torch.testing.assert_close(found_QG, TENSORS[f"eval/k{top}/{name}"], **CLOSE)


@pytest.mark.parametrize("top", [4, 6])
def test_recalls_agree_where_the_official_code_breaks_no_ties_by_chance(inference: AlbefInference, top: int) -> None:
    metrics, run = measure(inference, top).evaluation.metrics, RUNS[str(top)]
    assert run["free_of_ties"]
    for official in run["free_of_ties"]:
        direction, _, k = official.partition("_r")
        found = metrics[f"reranked/{OFFICIAL_NAMES[direction]}/recall@{k}"]
        assert 100 * found == pytest.approx(run["result"][official]), official
