"""Retrieval metrics as pure functions of scores and relevance.

Shapes: T texts, I images, Q queries, G gallery items. A query may have several relevant items, and an item several
queries. A query's rank is the position, from 1, of its best-ranked relevant item.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1024
"""Queries ordered at a time, which bounds the memory of the sort."""


def order(score_QG: Tensor) -> Tensor:
    """Return the gallery of each query, best first, as int64 [Q, G].

    Equal scores keep the gallery's order; NaN counts as the lowest score.
    """
    return torch.argsort(score_QG.nan_to_num(nan=-math.inf), dim=1, descending=True, stable=True)


def rerank(order_QG: Tensor, match_QG: Tensor, top: int) -> Tensor:
    """Order the first `top` items of each query again by other scores; the items after them stay.

    Args:
        order_QG: from `order`.
        match_QG: scores, read only at the items to be ordered again.
        top: how many; more than the gallery holds means all.
    """
    head_QK, rest_QR = order_QG[:, :top], order_QG[:, top:]
    return torch.cat([head_QK.gather(1, order(match_QG.gather(1, head_QK))), rest_QR], dim=1)


def first_relevant_rank(order_QG: Tensor, relevant_QG: Tensor) -> Tensor:
    """Return each query's rank as int64 [Q].

    Raises:
        ValueError: when a query has no relevant item.
    """
    if not relevant_QG.any(dim=1).all():
        raise ValueError("every query needs at least one relevant item")
    return relevant_QG.gather(1, order_QG).to(torch.int8).argmax(dim=1) + 1


def ranks(score_QG: Tensor, relevant_QG: Tensor, match_QG: Tensor | None = None, top: int = 0) -> Tensor:
    """Return each query's rank as int64 [Q], a chunk of queries at a time.

    Args:
        score_QG: similarity of queries and items.
        relevant_QG: bool.
        match_QG: scores that order the first `top` items again.
        top: as in `rerank`.

    Raises:
        ValueError: when a query has no relevant item.
    """
    parts = []
    for rows in chunks(len(score_QG)):
        order_QG = order(score_QG[rows])
        if match_QG is not None:
            order_QG = rerank(order_QG, match_QG[rows], top)
        parts.append(first_relevant_rank(order_QG, relevant_QG[rows]))
    return torch.cat(parts)


def recall(rank_Q: Tensor, k: int) -> float:
    """Return the share of queries with a relevant item among the first k."""
    return float((rank_Q <= k).double().mean())


def chance_recall(relevant_QG: Tensor, k: int) -> float:
    """Return the expected recall at k of a random order of the gallery.

    With r of n items relevant, k items drawn without replacement miss them all with probability C(n-r, k) / C(n, k).
    """
    size = relevant_QG.shape[1]
    k = min(k, size)
    queries = Counter(relevant_QG.sum(dim=1).tolist())
    misses = sum(number * math.comb(size - count, k) / math.comb(size, k) for count, number in queries.items())
    return 1 - misses / len(relevant_QG)


def mean_rank(rank_Q: Tensor) -> float:
    """Return the mean of the queries' ranks."""
    return float(rank_Q.double().mean())


def median_rank(rank_Q: Tensor) -> float:
    """Return the median of the queries' ranks, the mean of the middle two where their number is even."""
    return float(rank_Q.double().quantile(0.5))


def chunks(length: int, size: int = CHUNK) -> Iterator[slice]:
    """Yield slices that cut `length` rows into pieces of at most `size`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says about every text with every image.

    Args:
        similarity_TI: cosine similarity of the embeddings.
        relevant_TI: bool.
        match_TI: match logits of the re-ranked pairs, -inf elsewhere; None without re-ranking.
        top: items per query that were re-ranked.
    """

    similarity_TI: Tensor
    relevant_TI: Tensor
    match_TI: Tensor | None
    top: int
