"""Image-text retrieval on held-out samples, both directions, with and without re-ranking.

A text is relevant to every image that has it among its cleaned captions; identical captions are one text.

Re-ranking is ALBEF's (Li et al., arXiv 2107.07651, section 4): only the top k items of a query by contrastive
similarity are scored by the fusion encoder's matching head, and ordered by the logit of a match.

Shapes: T distinct texts, I images, P pairs, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
from workloads.downstream.gallery import (
    evenly_spaced,
    heat_map_gallery,
    search_results,
    word_maps_of,
)
from workloads.downstream.ranking import Scores, chance_recall, chunks, mean_rank, median_rank, order, ranks, recall
from workloads.downstream.retrieval_metrics import RECALL_AT, RERANKED, retrieval_tables
from workloads.downstream.retrieval_options import RetrievalOptions
from workloads.nn.vision import ImageFeatures, TextFeatures
from workloads.transforms.pairs import EvaluationTransform

MATCH, WORDS = "match", "words"
"""Kinds of chunks: pairs to be scored, and texts whose words are looked for in an image."""


def evaluate_retrieval(
    model: RetrievalModel, transform: EvaluationTransform, samples: Sequence[Sample], options: RetrievalOptions
) -> Evaluation:
    """Measure retrieval in this process; see `RetrievalEvaluator`.

    Raises:
        WorkloadError: when no sample can be used.
    """
    return evaluate_samples(RetrievalEvaluator(model, transform, options), samples, options)


class RetrievalEvaluator:
    """Measures retrieval: recall at 1, 5 and 10 with its chance level, mean and median rank.

    Metrics are named `text_to_image/recall@1`, `image_to_text/chance@5`, `.../median_rank`, `.../mean_rank`, with
    `reranked/` before them where the matching head ordered the first `options.rerank` items.

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
        return (IMAGE_TOKENS, *TEXT_FEATURES) if self._options.rerank else ()

    @property
    def _subject(self) -> ModelUnderTest:
        if self._model is None:
            raise WorkloadError("the model is not built yet: call build(device, draw) first")
        return ModelUnderTest(self._model, self._transform, self._options.batch_size)

    def encode(self, block: Block) -> Part:
        """Encode a block's images and its distinct captions; their tokens are features when there is re-ranking."""
        with torch.no_grad():
            encoded = self._subject.encode(block, keep_tokens=self._options.rerank > 0)
        summary = Record(
            {"rows": np.array(encoded.rows, dtype=np.int64), **encoded.embeddings},
            {"captions": encoded.captions, "texts": encoded.texts, "titles": encoded.titles},
        )
        return Part(summary, encoded.features, encoded.unusable)

    def plan(self, summaries: Sequence[Record]) -> Sequence[Chunk]:
        """Return the pairs to be scored, by the images' blocks, and the texts to be shown with heat maps."""
        gallery = RetrievalSet.of(summaries)
        return [*self._matches(gallery), *self._words(gallery)]

    def score(self, chunk: Chunk, features: Mapping[FeatureName, np.ndarray], samples: Mapping[int, Sample]) -> Record:
        """Return the match logits of a chunk's pairs [P], or its texts' words with their maps."""
        if chunk.task.values["kind"] == WORDS:
            return word_maps_of(self._subject, samples, chunk.task)
        with torch.no_grad():
            return Record({"match": self._match(chunk, features).numpy()})

    def finish(self, summaries: Sequence[Record], chunks: Sequence[Chunk], results: Sequence[Record]) -> Evaluation:
        """Return metrics, tables and galleries."""
        gallery, options = RetrievalSet.of(summaries), self._options
        done = list(zip(chunks, results, strict=True))
        scores = Scores(gallery.similarity_TI, gallery.relevant_TI, None, 0)
        if options.rerank:
            match_TI = _match_matrix(gallery, [pair for pair in done if pair[0].task.values["kind"] == MATCH])
            scores = Scores(scores.similarity_TI, scores.relevant_TI, match_TI, options.rerank)
        shown = (
            search_results(gallery.texts, gallery.titles, gallery.rows, scores, options.gallery),
            heat_map_gallery([result for chunk, result in done if chunk.task.values["kind"] == WORDS]),
        )
        return Evaluation(
            retrieval_metrics(scores),
            retrieval_tables(options.rerank > 0),
            tuple(one for one in shown if one.rows),
        )

    def _matches(self, gallery: RetrievalSet) -> Iterator[Chunk]:
        if self._options.rerank == 0:
            return
        pairs_P2 = candidate_pairs(gallery.similarity_TI, self._options.rerank).numpy()
        block_P = gallery.image_at_I2[pairs_P2[:, 1], 0]
        for block in np.unique(block_P).tolist():
            text_P, image_P = pairs_P2[block_P == block].T
            task = {"text": text_P, "image": image_P, "text_at": gallery.text_at_T2[text_P]}
            task["image_at"] = gallery.image_at_I2[image_P]
            texts = [(other, name) for other in np.unique(task["text_at"][:, 0]).tolist() for name in TEXT_FEATURES]
            yield Chunk(Record(task, {"kind": MATCH}), ((block, IMAGE_TOKENS), *texts), items=len(text_P))

    def _words(self, gallery: RetrievalSet) -> Iterator[Chunk]:
        shown = evenly_spaced(len(gallery.texts), self._options.heat_maps)
        for some in (shown[start : start + WORDS_AT_ONCE] for start in range(0, len(shown), WORDS_AT_ONCE)):
            rows = [gallery.home[text] for text in some]
            values = {"kind": WORDS, "texts": [gallery.texts[text] for text in some], "rows": rows}
            yield Chunk(Record({}, values), rows=tuple(sorted(set(rows))), items=len(some), unit="heat maps")

    def _match(self, chunk: Chunk, features: Mapping[FeatureName, np.ndarray]) -> Tensor:
        """Return the match logits of a chunk's pairs, float [P]."""
        task, logits = chunk.task.arrays, []
        for start in range(0, len(task["text"]), self._options.batch_size):
            rows = slice(start, start + self._options.batch_size)
            states_BLD, mask_BL = _rows_at(features, TEXT_FEATURES, task["text_at"][rows], self._subject.model.device)
            text = TextFeatures(states_BLD, mask_BL, states_BLD[:, 0])
            tokens = [
                torch.from_numpy(features[int(block), IMAGE_TOKENS][row]) for block, row in task["image_at"][rows]
            ]
            tokens_BND = torch.stack(tokens).to(self._subject.model.device)
            image = ImageFeatures(tokens_BND, tokens_BND[:, 0])
            logits.append(self._subject.model.match_scores(text, image)[:, 1].cpu())
        return torch.cat(logits)


WORDS_AT_ONCE = 8
"""Texts of one chunk of heat maps."""

IMAGE_TOKENS = "image_tokens"
TEXT_FEATURES = ("text_states", "text_mask")


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """All images and texts of an evaluation.

    Args:
        texts: the T distinct texts, in the order of their first images.
        home: row of the sample that a text comes from first.
        text_at_T2: where each text's features are: block, and place in it.
        image_at_I2: likewise of images.
        rows: of the samples with the I images.
        titles: the images' first captions, as stored.
        similarity_TI: cosine similarity.
        relevant_TI: bool.
    """

    texts: tuple[str, ...]
    home: tuple[int, ...]
    text_at_T2: np.ndarray
    image_at_I2: np.ndarray
    rows: tuple[int, ...]
    titles: tuple[str, ...]
    similarity_TI: Tensor
    relevant_TI: Tensor

    @classmethod
    def of(cls, summaries: Sequence[Record]) -> RetrievalSet:
        """Put the blocks' summaries together."""
        first: dict[str, tuple[int, int]] = {}
        home: dict[str, int] = {}
        for number, summary in enumerate(summaries):
            place = {text: at for at, text in enumerate(summary.values["texts"])}
            for row, captions in zip(summary.arrays["rows"].tolist(), summary.values["captions"], strict=True):
                for text in captions:
                    first.setdefault(text, (number, place[text]))
                    home.setdefault(text, row)
        image_at = [(number, at) for number, one in enumerate(summaries) for at in range(len(one.arrays["rows"]))]
        text_TE = np.stack([summaries[block].arrays["text_embedding"][at] for block, at in first.values()])
        image_IE = np.concatenate([one.arrays["image_embedding"] for one in summaries if len(one.arrays["rows"])])
        captions = [tuple(of_image) for summary in summaries for of_image in summary.values["captions"]]
        return cls(
            texts=tuple(first),
            home=tuple(home.values()),
            text_at_T2=np.array(list(first.values()), dtype=np.int64),
            image_at_I2=np.array(image_at, dtype=np.int64),
            rows=tuple(row for summary in summaries for row in summary.arrays["rows"].tolist()),
            titles=tuple(title for summary in summaries for title in summary.values["titles"]),
            similarity_TI=torch.from_numpy(text_TE) @ torch.from_numpy(image_IE).T,
            relevant_TI=relevance(tuple(first), captions),
        )


def relevance(texts: Sequence[str], captions: Sequence[tuple[str, ...]]) -> Tensor:
    """Return bool [T, I]: True where text t is a caption of image i."""
    row_of = {text: row for row, text in enumerate(texts)}
    relevant_TI = torch.zeros(len(texts), len(captions), dtype=torch.bool)
    for column, of_image in enumerate(captions):
        relevant_TI[[row_of[text] for text in of_image], column] = True
    return relevant_TI


def retrieval_metrics(scores: Scores) -> dict[str, float]:
    """Return the named figures of both directions."""
    metrics = _direction("text_to_image", scores.similarity_TI, scores.relevant_TI, scores.match_TI, scores.top)
    match_IT = None if scores.match_TI is None else scores.match_TI.T
    return metrics | _direction("image_to_text", scores.similarity_TI.T, scores.relevant_TI.T, match_IT, scores.top)


def _direction(name: str, score_QG: Tensor, relevant_QG: Tensor, match_QG: Tensor | None, top: int) -> dict[str, float]:
    metrics = _figures(name, ranks(score_QG, relevant_QG))
    metrics |= {f"{name}/chance@{k}": chance_recall(relevant_QG, k) for k in RECALL_AT}
    if match_QG is not None:
        metrics |= _figures(f"{RERANKED}{name}", ranks(score_QG, relevant_QG, match_QG, top))
    return metrics


def _figures(name: str, rank_Q: Tensor) -> dict[str, float]:
    recalls = {f"{name}/recall@{k}": recall(rank_Q, k) for k in RECALL_AT}
    return recalls | {f"{name}/median_rank": median_rank(rank_Q), f"{name}/mean_rank": mean_rank(rank_Q)}


def candidate_pairs(score_TI: Tensor, top: int) -> Tensor:
    """Return the pairs (text, image) among the top of either direction, as int64 [P, 2], each once."""
    text_P, image_P = _top(score_TI, top)
    other_image_P, other_text_P = _top(score_TI.T, top)
    selected_TI = torch.zeros(score_TI.shape, dtype=torch.bool)
    selected_TI[text_P, image_P] = True
    selected_TI[other_text_P, other_image_P] = True
    return selected_TI.nonzero()


def _match_matrix(gallery: RetrievalSet, done: Sequence[tuple[Chunk, Record]]) -> Tensor:
    """Return the match logit of each scored pair in a matrix [T, I], -inf everywhere else."""
    match_TI = torch.full(gallery.similarity_TI.shape, -math.inf, dtype=gallery.similarity_TI.dtype)
    for chunk, result in done:
        text_P, image_P = (torch.from_numpy(chunk.task.arrays[name]) for name in ("text", "image"))
        match_TI[text_P, image_P] = torch.from_numpy(result.arrays["match"]).to(match_TI.dtype)
    return match_TI


def _top(score_QG: Tensor, top: int) -> tuple[Tensor, Tensor]:
    best_QK = torch.cat([order(score_QG[rows])[:, :top] for rows in chunks(len(score_QG))])
    query_QK = torch.arange(len(score_QG))[:, None].expand_as(best_QK)
    return query_QK.flatten(), best_QK.flatten()


def _rows_at(
    features: Mapping[FeatureName, np.ndarray], names: Sequence[str], at_B2: np.ndarray, device: torch.device
) -> list[Tensor]:
    """Return rows of the named features, [B, ...] each; `at_B2` says of which block, and which row there."""
    rows = []
    for name in names:
        of_block = {block: features[block, name] for block in np.unique(at_B2[:, 0]).tolist()}
        rows.append(torch.from_numpy(np.stack([of_block[block][row] for block, row in at_B2.tolist()])).to(device))
    return rows
