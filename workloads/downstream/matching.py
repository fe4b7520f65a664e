"""Scoring candidate pairs with the fusion encoder, as ALBEF re-ranks.

Li et al., Align before Fuse (arXiv 2107.07651), section 4: only the top k items of a query by contrastive similarity
are scored by the matching head, and ordered by the logit of a match.

Shapes: T texts, I images, P pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from workloads.downstream.encoding import ModelUnderTest
from workloads.downstream.ranking import chunks, order
from workloads.nn.features import ImageFeatures, TextFeatures


def candidate_pairs(score_TI: Tensor, top: int) -> Tensor:
    """Return the pairs (text, image) among the top of either direction, as int64 [P, 2], each once."""
    text_P, image_P = _top(score_TI, top)
    other_image_P, other_text_P = _top(score_TI.T, top)
    wanted_TI = torch.zeros(score_TI.shape, dtype=torch.bool)
    wanted_TI[text_P, image_P] = True
    wanted_TI[other_text_P, other_image_P] = True
    return wanted_TI.nonzero()


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
