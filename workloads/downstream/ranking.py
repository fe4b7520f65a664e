"""Retrieval ranks and metrics: exact, with ties broken by index, and in blocks, since all scores need not fit at once.

A query may have several relevant items, and an item several queries. A query's rank is the position, from 1, of its
best-ranked relevant item; it is counted, not read off a sorted gallery.

Similarities are computed in float64 and rounded to float32. The rounding swallows what depends on the place of a row in
a product, so that equal embeddings tie wherever they stand and their order is that of the gallery.

Shapes: Q queries, G gallery items, K best items of a query, P relevant pairs, E embedding width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_ITEMS = 4_000_000
"""Scores held at a time; each takes about 40 bytes while the best are selected."""

LOW_BITS = 1 << 32


@dataclass(frozen=True, slots=True)
class Relevance:
    """Which items are right answers to which queries.

    Args:
        query_P: int64, ascending.
        item_P: int64, one item of each of these queries; every pair once.
        queries: number of queries, Q.
        items: size of the gallery, G.

    Raises:
        ValueError: when a query has no relevant item.
    """

    query_P: Tensor
    item_P: Tensor
    queries: int
    items: int

    def __post_init__(self) -> None:
        if self.queries and not self.counts_Q.all():
            raise ValueError("every query needs at least one relevant item")

    @classmethod
    def of_pairs(cls, query_P: Tensor, item_P: Tensor, queries: int, items: int) -> Relevance:
        """Return the relevance of pairs in any order, some of them possibly repeated."""
        number_P = torch.unique(query_P * items + item_P)
        return cls(number_P // items, number_P % items, queries, items)

    @property
    def reverse(self) -> Relevance:
        """The same with the gallery as queries."""
        return Relevance.of_pairs(self.item_P, self.query_P, self.items, self.queries)

    @property
    def counts_Q(self) -> Tensor:
        """Relevant items of each query, int64 [Q]."""
        return torch.bincount(self.query_P, minlength=self.queries)

    def rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Return query, counted from the first of these rows, and item of the pairs of consecutive queries."""
        bounds = torch.tensor([rows.start, rows.stop])
        first, last = torch.searchsorted(self.query_P, bounds).tolist()
        return self.query_P[first:last] - rows.start, self.item_P[first:last]

    def contains(self, item_QK: Tensor, query_Q1: Tensor) -> Tensor:
        """Return bool [Q, K]: whether these items are relevant to these queries."""
        relevant_P = self.query_P * self.items + self.item_P
        number_QK = query_Q1 * self.items + item_QK
        place_QK = torch.searchsorted(relevant_P, number_QK).clamp_max(len(relevant_P) - 1)
        return relevant_P[place_QK] == number_QK


@dataclass(frozen=True, slots=True)
class Ranking:
    """The gallery as each query ranks it.

    Args:
        rank_Q: rank of each query, int64.
        best_QK: its first items, best first, int32.
        score_QK: their scores.
    """

    rank_Q: Tensor
    best_QK: Tensor
    score_QK: Tensor


def rank_by_similarity(query_QE: Tensor, item_GE: Tensor, relevance: Relevance, top: int) -> Ranking:
    """Rank a gallery by dot products, a block of queries at a time.

    Args:
        query_QE: embeddings.
        item_GE: likewise.
        relevance: of queries and items.
        top: items of each query to be returned; at most the gallery.
    """
    items_EG = item_GE.double().T.contiguous()
    top = min(top, len(item_GE))
    parts = []
    for rows in chunks(len(query_QE), max(1, BLOCK_ITEMS // max(len(item_GE), 1))):
        key_QG = sort_keys((query_QE[rows].double() @ items_EG).float())
        rank_Q = _ranks(key_QG, *relevance.rows(rows))
        parts.append((rank_Q, *_best(key_QG, top)))
    return Ranking(*(torch.cat(column) for column in zip(*parts, strict=True)))


def rerank(ranking: Ranking, match_QK: Tensor, relevance: Relevance) -> Ranking:
    """Order the first items of each query again by other scores; the items after them stay.

    Args:
        ranking: by similarity.
        match_QK: the other scores of its first items; equal ones keep the order by similarity.
        relevance: of queries and items.
    """
    parts = []
    for rows in chunks(len(match_QK), max(1, BLOCK_ITEMS // max(match_QK.shape[1], 1))):
        order_QK = order(match_QK[rows])
        parts.append((order_QK.int(), match_QK[rows].gather(1, order_QK)))
    place_QK, score_QK = (torch.cat(column) for column in zip(*parts, strict=True))
    best_QK = ranking.best_QK.gather(1, place_QK.long())
    relevant_QK = relevance.contains(best_QK, torch.arange(len(best_QK))[:, None])
    first_Q = relevant_QK.to(torch.int8).argmax(dim=1) + 1
    return Ranking(torch.where(relevant_QK.any(dim=1), first_Q, ranking.rank_Q), best_QK, score_QK)


def order(score_QG: Tensor) -> Tensor:
    """Return the gallery of each query, best first, as int64 [Q, G].

    Equal scores keep the gallery's order; NaN counts as the lowest score.
    """
    return torch.argsort(score_QG.nan_to_num(nan=-math.inf), dim=1, descending=True, stable=True)


def sort_keys(score_QG: Tensor) -> Tensor:
    """Return int64 numbers [Q, G] that differ within a row and are ordered as float32 scores, then by index.

    The upper half is the score's bits, as integers that are ordered like the floats; the lower half counts items back
    from the end of the gallery, so that of equal scores the first is the largest. NaN counts as the lowest score.
    """
    bits_QG = (score_QG.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf) + 0.0).view(torch.int32)
    ordered_QG = torch.where(bits_QG >= 0, bits_QG, bits_QG ^ 0x7FFFFFFF).long()
    return ordered_QG.mul_(LOW_BITS).add_(torch.arange(score_QG.shape[1] - 1, -1, -1))


def recall(rank_Q: Tensor, k: int) -> float:
    """Return the share of queries with a relevant item among the first k."""
    return float((rank_Q <= k).double().mean())


def chance_recall(relevance: Relevance, k: int) -> float:
    """Return the expected recall at k of a random order of the gallery.

    With r of n items relevant, k items drawn without replacement miss them all with probability C(n-r, k) / C(n, k).
    """
    size = relevance.items
    k = min(k, size)
    queries = Counter(relevance.counts_Q.tolist())
    misses = sum(number * math.comb(size - count, k) / math.comb(size, k) for count, number in queries.items())
    return 1 - misses / relevance.queries


def mean_rank(rank_Q: Tensor) -> float:
    """Return the mean of the queries' ranks."""
    return float(rank_Q.double().mean())


def median_rank(rank_Q: Tensor) -> float:
    """Return the median of the queries' ranks, the mean of the middle two where their number is even."""
    return float(rank_Q.double().quantile(0.5))


def chunks(length: int, size: int) -> Iterator[slice]:
    """Yield slices that cut `length` rows into pieces of at most `size`."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _ranks(key_QG: Tensor, query_P: Tensor, item_P: Tensor) -> Tensor:
    """Return how many keys of each query are at least as large as its largest relevant one, int64 [Q]."""
    best_Q = torch.full((len(key_QG),), torch.iinfo(torch.int64).min)
    best_Q.scatter_reduce_(0, query_P, key_QG[query_P, item_P], "amax")
    return (key_QG >= best_Q[:, None]).sum(dim=1)


def _best(key_QG: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return the first items of each query, int32 [Q, K], and their scores, float32 [Q, K]."""
    key_QK = key_QG.topk(top, dim=1).values
    bits_QK = torch.div(key_QK, LOW_BITS, rounding_mode="floor")
    item_QK = key_QG.shape[1] - 1 - (key_QK - bits_QK * LOW_BITS)
    ordered_QK = bits_QK.int()
    score_QK = torch.where(ordered_QK >= 0, ordered_QK, ordered_QK ^ 0x7FFFFFFF).view(torch.float32)
    return item_QK.int(), score_QK
