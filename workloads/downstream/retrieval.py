"""Image-text retrieval on held-out samples, both directions, with and without re-ranking.

A text is relevant to every image that has it among its cleaned captions; identical captions are one text.

Re-ranking is ALBEF's (Li et al., arXiv 2107.07651, section 4): only the top k items of a query by contrastive
similarity are scored by the fusion encoder's matching head, and ordered by the logit of a match.

Shapes: T distinct texts, I images, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.contract import Evaluation, EvaluationOptions, Sample
from workloads.downstream.encoding import EncodedImages, ModelUnderTest, RetrievalModel, read
from workloads.downstream.gallery import heat_maps, search_results
from workloads.downstream.ranking import Scores, chance_recall, chunks, mean_rank, median_rank, order, ranks, recall
from workloads.downstream.retrieval_metrics import RECALL_AT, RERANKED, retrieval_tables
from workloads.nn.vision import ImageFeatures, TextFeatures
from workloads.transforms.pairs import EvaluationTransform


def evaluate_retrieval(
    model: RetrievalModel,
    transform: EvaluationTransform,
    samples: Sequence[Sample],
    options: EvaluationOptions,
) -> Evaluation:
    """Measure retrieval: recall at 1, 5 and 10 with its chance level, mean and median rank.

    Metrics are named `text_to_image/recall@1`, `image_to_text/chance@5`, `.../median_rank`, `.../mean_rank`, with
    `reranked/` before them where the matching head ordered the first `options.rerank` items; `skipped` counts samples
    that cannot be used. Indices in the gallery and the heat maps are rows of `samples`.

    Args:
        model: in evaluation mode.
        transform: reads samples.
        samples: what to evaluate on.
        options: batch size, re-ranking, gallery and heat maps.

    Raises:
        WorkloadError: when no sample can be used.
    """
    subject = ModelUnderTest(model, transform, options.batch_size)
    with torch.no_grad():
        images = subject.encode_images(read(samples, transform), keep_tokens=options.rerank > 0)
        home = first_rows(images)
        texts = tuple(home)
        scores = _score(subject, texts, images, options.rerank)
    metrics = retrieval_metrics(scores) | {"skipped": float(len(images.unusable))}
    galleries = (
        search_results(texts, samples, images.rows, scores, options.gallery),
        heat_maps(subject, samples, home, options.heat_maps),
    )
    return Evaluation(
        metrics,
        retrieval_tables(options.rerank > 0),
        tuple(gallery for gallery in galleries if gallery.rows),
        images.unusable,
    )


def first_rows(images: EncodedImages) -> dict[str, int]:
    """Return text -> row of the first sample that it belongs to."""
    first: dict[str, int] = {}
    for row, captions in zip(images.rows, images.captions, strict=True):
        for text in captions:
            first.setdefault(text, row)
    return first


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


def _score(subject: ModelUnderTest, texts: Sequence[str], images: EncodedImages, top: int) -> Scores:
    encoded = subject.encode_texts(texts)
    similarity_TI = encoded.embedding_BE @ images.features.embedding_BE.T
    relevant_TI = relevance(texts, images.captions)
    if top == 0:
        return Scores(similarity_TI, relevant_TI, None, 0)
    pairs_P2 = candidate_pairs(similarity_TI, top)
    return Scores(similarity_TI, relevant_TI, match_matrix(subject, encoded, images.features, pairs_P2), top)


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


def match_matrix(subject: ModelUnderTest, texts: TextFeatures, images: ImageFeatures, pairs_P2: Tensor) -> Tensor:
    """Return the match logit of each pair in a matrix [T, I], -inf everywhere else.

    Args:
        subject: scores `batch_size` pairs at a time.
        texts: on any device; rows are moved to the model as they are needed.
        images: likewise.
        pairs_P2: rows of texts and images.
    """
    match_TI = torch.full((len(texts.embedding_BE), len(images.embedding_BE)), -math.inf)
    for rows in chunks(len(pairs_P2), subject.batch_size):
        text_B, image_B = pairs_P2[rows].unbind(1)
        text = _texts_at(texts, text_B, subject.model.device)
        image = _images_at(images, image_B, subject.model.device)
        match_TI[text_B, image_B] = subject.model.match_scores(text, image)[:, 1].float().cpu()
    return match_TI


def _top(score_QG: Tensor, top: int) -> tuple[Tensor, Tensor]:
    best_QK = torch.cat([order(score_QG[rows])[:, :top] for rows in chunks(len(score_QG))])
    query_QK = torch.arange(len(score_QG))[:, None].expand_as(best_QK)
    return query_QK.flatten(), best_QK.flatten()


def _texts_at(texts: TextFeatures, rows_B: Tensor, device: torch.device) -> TextFeatures:
    columns = (texts.states_BLD, texts.mask_BL, texts.embedding_BE)
    return TextFeatures(*(column[rows_B].to(device) for column in columns))


def _images_at(images: ImageFeatures, rows_B: Tensor, device: torch.device) -> ImageFeatures:
    return ImageFeatures(images.tokens_BND[rows_B].to(device), images.embedding_BE[rows_B].to(device))
