"""Image-text retrieval on held-out samples, both directions, with and without re-ranking.

Re-ranking is ALBEF's (Li et al., arXiv 2107.07651, section 4): only the top k items of a query by contrastive
similarity are scored by the fusion encoder's matching head, and ordered by the logit of a match.

Nothing here is as large as texts times images: similarities are compared block by block (`ranking.py`), and only
candidate pairs have match scores (`reranking.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workloads.contract import (
    Block,
    Chunk,
    Evaluation,
    FeatureName,
    Part,
    Record,
    Sample,
    WorkloadError,
    evaluate_samples,
)
from workloads.downstream.encoding import ModelUnderTest, RetrievalModel
from workloads.downstream.gallery import MATCHES, evenly_spaced, heat_map_gallery, search_results, word_maps_of
from workloads.downstream.ranking import (
    Ranking,
    Relevance,
    chance_recall,
    mean_rank,
    median_rank,
    rank_by_similarity,
    recall,
    rerank,
)
from workloads.downstream.reranking import FEATURES, MATCH, MatchScores, candidate_pairs, match_chunks, score_chunk
from workloads.downstream.retrieval_metrics import DIRECTIONS, R_MEAN, RECALL_AT, RERANKED, retrieval_tables
from workloads.downstream.retrieval_options import RetrievalOptions
from workloads.downstream.retrieval_set import RetrievalSet
from workloads.transforms.pairs import EvaluationTransform

WORDS = "words"
"""Kind of the chunks whose texts' words are looked for in an image."""

WORDS_AT_ONCE = 8
"""Texts of one chunk of heat maps."""


def evaluate_retrieval(
    model: RetrievalModel, transform: EvaluationTransform, samples: Sequence[Sample], options: RetrievalOptions
) -> Evaluation:
    """Measure retrieval in this process; see `RetrievalEvaluator`.

    Raises:
        WorkloadError: when no sample can be used.
    """
    return evaluate_samples(RetrievalEvaluator(model, transform, options), samples, options)


@dataclass(frozen=True, slots=True)
class Rankings:
    """What texts retrieve and what images retrieve.

    Args:
        texts: images as each text ranks them.
        images: texts as each image ranks them.
    """

    texts: Ranking
    images: Ranking


class RetrievalEvaluator:
    """Measures retrieval: recall at 1, 5 and 10 with its chance level, mean and median rank.

    Metrics are named `text_to_image/recall@1`, `image_to_text/chance@5`, `.../median_rank`, `.../mean_rank`, and
    `r_mean` is the mean of the six recalls; `reranked/` stands before them where the matching head ordered the first
    items again.

    Args:
        model: in evaluation mode; None where only `plan` and `finish` are asked.
        transform: reads samples.
        options: how to evaluate.
    """

    def __init__(self, model: RetrievalModel | None, transform: EvaluationTransform, options: RetrievalOptions) -> None:
        self._model = model
        self._transform = transform
        self._options = options

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What the fusion encoder reads, where there is re-ranking."""
        return FEATURES if self._options.rerank else ()

    @property
    def _subject(self) -> ModelUnderTest:
        if self._model is None:
            raise WorkloadError("the model is not built yet: call build(device, draw) first")
        return ModelUnderTest(self._model, self._transform, self._options.batch_size)

    def encode(self, block: Block) -> Part:
        """Encode a block's images and its distinct captions; their tokens are features when there is re-ranking."""
        with torch.no_grad():
            encoded = self._subject.encode(block, keep_tokens=self._options.rerank > 0)
        numbers = {"rows": encoded.rows, "image_numbers": encoded.image_numbers}
        summary = Record(
            {name: np.array(column, dtype=np.int64) for name, column in numbers.items()} | dict(encoded.embeddings),
            {"captions": encoded.captions, "texts": encoded.texts, "titles": encoded.titles},
        )
        return Part(summary, encoded.features, encoded.unusable)

    def plan(self, summaries: Sequence[Record]) -> Sequence[Chunk]:
        """Return the pairs to be scored, image by image, and the texts to be shown with heat maps."""
        items = RetrievalSet.of(summaries, self._options.texts)
        matches: list[Chunk] = []
        if self._options.rerank:
            found = self._by_similarity(items)
            matches += match_chunks(items, *candidate_pairs(items, found.texts.best_QK, found.images.best_QK))
        return [*matches, *self._words(items)]

    def score(self, chunk: Chunk, features: Mapping[FeatureName, np.ndarray], samples: Mapping[int, Sample]) -> Record:
        """Return the match logits of a chunk's pairs [P], or its texts' words with their maps."""
        if chunk.task.values["kind"] == WORDS:
            return word_maps_of(self._subject, samples, chunk.task)
        with torch.no_grad():
            return score_chunk(self._subject.model, chunk, features)

    def finish(self, summaries: Sequence[Record], chunks: Sequence[Chunk], results: Sequence[Record]) -> Evaluation:
        """Return metrics, tables and galleries."""
        items, options = RetrievalSet.of(summaries, self._options.texts), self._options
        found = self._by_similarity(items)
        metrics = ranking_metrics(found, "") | chance_metrics(items.relevance)
        done = list(zip(chunks, results, strict=True))
        matched = [pair for pair in done if pair[0].task.values["kind"] == MATCH]
        if matched:
            found = _by_match(items, found, MatchScores(items, matched))
            metrics |= ranking_metrics(found, RERANKED)
        shown = (
            search_results(items, found.texts, options.gallery),
            heat_map_gallery([result for chunk, result in done if chunk.task.values["kind"] == WORDS]),
        )
        return Evaluation(metrics, retrieval_tables(bool(matched)), tuple(one for one in shown if one.rows))

    def _by_similarity(self, items: RetrievalSet) -> Rankings:
        """Rank by similarity; the first items are those to rank again, or else those to show."""
        options, relevance = self._options, items.relevance
        return Rankings(
            rank_by_similarity(items.text_TE, items.image_IE, relevance, options.top_images or MATCHES),
            rank_by_similarity(items.image_IE, items.text_TE, relevance.reverse, options.top_texts),
        )

    def _words(self, items: RetrievalSet) -> Iterator[Chunk]:
        shown = evenly_spaced(len(items.texts), self._options.heat_maps)
        for some in (shown[start : start + WORDS_AT_ONCE] for start in range(0, len(shown), WORDS_AT_ONCE)):
            rows = [items.homes[text] for text in some]
            values = {"kind": WORDS, "texts": [items.texts[text] for text in some], "rows": rows}
            yield Chunk(Record({}, values), rows=tuple(sorted(set(rows))), items=len(some), unit="heat maps")


def ranking_metrics(found: Rankings, prefix: str) -> dict[str, float]:
    """Return the figures of both directions and the mean of the recalls.

    Args:
        found: a ranking of both directions.
        prefix: before every name.
    """
    metrics: dict[str, float] = {}
    recalls: list[float] = []
    for direction, ranking in zip(DIRECTIONS, (found.texts, found.images), strict=True):
        name = f"{prefix}{direction}"
        at_k = {f"{name}/recall@{k}": recall(ranking.rank_Q, k) for k in RECALL_AT}
        recalls += at_k.values()
        metrics |= at_k
        metrics |= {f"{name}/median_rank": median_rank(ranking.rank_Q), f"{name}/mean_rank": mean_rank(ranking.rank_Q)}
    return metrics | {f"{prefix}{R_MEAN}": sum(recalls) / len(recalls)}


def chance_metrics(relevance: Relevance) -> dict[str, float]:
    """Return the recalls of a random order, of texts as queries and of images as queries."""
    directions = zip(DIRECTIONS, (relevance, relevance.reverse), strict=True)
    return {f"{direction}/chance@{k}": chance_recall(one, k) for direction, one in directions for k in RECALL_AT}


def _by_match(items: RetrievalSet, found: Rankings, scores: MatchScores) -> Rankings:
    return Rankings(
        rerank(found.texts, scores.of_texts(found.texts.best_QK), items.relevance),
        rerank(found.images, scores.of_images(found.images.best_QK), items.relevance.reverse),
    )
