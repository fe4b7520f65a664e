"""Memory of evaluating retrieval on 5,000 images and 25,000 texts, with features drawn at random (see evaluate.py).

    driver    everything that is decided in one place: candidate pairs, ranks, metrics; match scores are drawn
    actor     a model of ALBEF's size at 384 px that scores one image with as many texts as come to an image, while it
              holds the states of all texts and the tokens of a block of images

Each runs in a process of its own and returns a line with `peak_bytes`, the largest resident memory of that process, and
`seconds`.
"""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from workloads.contract import Record

IMAGES, CAPTIONS, BLOCK, CANDIDATES = 5000, 5, 125, 256
EMBEDDING, WIDTH, IMAGE_TOKENS, MEAN_TOKENS = 256, 768, 577, 12
SETTING = {"what": "memory", "images": IMAGES, "texts": IMAGES * CAPTIONS, "candidates": CANDIDATES}


def driver(threads: int) -> dict[str, Any]:
    """Return the line of the process that decides."""
    import torch
    from evaluate import peak_bytes

    from workloads.contract import Record
    from workloads.downstream.reranking import MATCH

    torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    evaluator, summaries = _evaluator(None), _summaries(random)
    start = perf_counter()
    chunks = evaluator.plan(summaries)
    results = [Record({MATCH: random.standard_normal(chunk.items, dtype=np.float32)}) for chunk in chunks]
    evaluator.finish(summaries, chunks, results)
    pairs = sum(chunk.items for chunk in chunks)
    return {**SETTING, "who": "driver", "pairs": pairs, "peak_bytes": peak_bytes(), "seconds": _since(start)}


def actor(threads: int) -> dict[str, Any]:
    """Return the line of a process that scores."""
    import torch
    from evaluate import inference, peak_bytes

    from workloads.downstream.reranking import IMAGE_TOKENS as TOKENS
    from workloads.downstream.reranking import TEXT_LENGTHS, TEXT_STATES

    torch.set_num_threads(threads)
    random = np.random.default_rng(0)
    features: dict[tuple[int, str], np.ndarray] = {(0, TOKENS): _normal(random, BLOCK, IMAGE_TOKENS, WIDTH)}
    for block in range(IMAGES // BLOCK):
        lengths = 3 + random.geometric(1 / (MEAN_TOKENS - 3), BLOCK * CAPTIONS).astype(np.int32).clip(max=27)
        features[block, TEXT_LENGTHS] = lengths
        features[block, TEXT_STATES] = _normal(random, int(lengths.sum()), WIDTH)
    chunk = _one_image(random)
    evaluator = _evaluator(inference("albef-384"))
    start = perf_counter()
    evaluator.score(chunk, features, {})
    return {**SETTING, "who": "actor", "pairs": chunk.items, "peak_bytes": peak_bytes(), "seconds": _since(start)}


def _evaluator(model: Any) -> Any:
    from workloads.albef.config import TextConfig
    from workloads.downstream.retrieval import RetrievalEvaluator
    from workloads.downstream.retrieval_options import RetrievalOptions
    from workloads.transforms.pairs import EvaluationTransform

    options = RetrievalOptions(rerank=CANDIDATES, texts="all", heat_maps=0)
    return RetrievalEvaluator(model, EvaluationTransform((384, 384), TextConfig()), options)


def _summaries(random: np.random.Generator) -> list[Record]:
    """Return the summaries of all blocks; every caption occurs once."""
    from workloads.contract import Record

    summaries = []
    for rows in np.arange(IMAGES).reshape(-1, BLOCK):
        captions = [[f"caption {number} of image {row}" for number in range(CAPTIONS)] for row in rows]
        arrays = {
            "rows": rows,
            "image_numbers": rows,
            "image_embedding": _normal(random, BLOCK, EMBEDDING),
            "text_embedding": _normal(random, BLOCK * CAPTIONS, EMBEDDING),
        }
        texts = [caption for of_image in captions for caption in of_image]
        titles = [of_image[0] for of_image in captions]
        summaries.append(Record(arrays, {"captions": captions, "texts": texts, "titles": titles}))
    return summaries


def _one_image(random: np.random.Generator) -> Any:
    """Return the work of one image: its share of the pairs, from texts of all blocks."""
    from workloads.contract import Chunk, Record

    pairs = CANDIDATES * CAPTIONS
    places = np.sort(random.choice(IMAGES * CAPTIONS, pairs, replace=False)).astype(np.int32)
    task = {
        "image": np.zeros(pairs, dtype=np.int32),
        "image_at": np.zeros((pairs, 2), dtype=np.int32),
        "text": places,
        "text_at": np.stack(np.divmod(places, BLOCK * CAPTIONS), axis=1),
    }
    return Chunk(Record(task, {"kind": "match"}), items=pairs)


def _normal(random: np.random.Generator, *shape: int) -> np.ndarray:
    array = random.standard_normal(shape, dtype=np.float32)
    return array / np.linalg.norm(array, axis=-1, keepdims=True) * (1 if shape[-1] == EMBEDDING else math.sqrt(WIDTH))


def _since(start: float) -> float:
    return round(perf_counter() - start, 1)
