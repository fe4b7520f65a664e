from __future__ import annotations

import math
from itertools import permutations
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.downstream import ranking
from workloads.downstream.ranking import (
    Ranking,
    Relevance,
    chance_recall,
    chunks,
    mean_rank,
    median_rank,
    order,
    rank_by_similarity,
    recall,
    rerank,
    sort_keys,
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with ties, and many-to-many relevance with at least one relevant item per query."""
    queries, gallery = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    row = st.lists(st.integers(-3, 3), min_size=gallery, max_size=gallery)
    scores = draw(st.lists(row, min_size=queries, max_size=queries))
    relevant_row = st.lists(st.booleans(), min_size=gallery, max_size=gallery).filter(any)
    relevant = draw(st.lists(relevant_row, min_size=queries, max_size=queries))
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(relevant)


def brute_force_rank(scores: list[float], relevant: list[bool]) -> int:
    """Count, for the best relevant item, how many items come before it: better ones, and equal ones stored earlier."""
    best = None
    for item, is_relevant in enumerate(relevant):
        if is_relevant:
            before = sum(
                other > scores[item] or (other == scores[item] and place < item) for place, other in enumerate(scores)
            )
            best = before + 1 if best is None else min(best, before + 1)
    assert best is not None
    return best


def relevance_of(relevant: torch.Tensor) -> Relevance:
    query_P, item_P = relevant.nonzero().unbind(1)
    return Relevance.of_pairs(query_P, item_P, len(relevant), relevant.shape[1])


def ranked(scores: torch.Tensor, relevant: torch.Tensor, top: int = 0) -> Ranking:
    """Rank by these scores: products of them, as embeddings, with unit vectors."""
    return rank_by_similarity(scores, torch.eye(scores.shape[1]), relevance_of(relevant), top)


@given(problems())
@settings(max_examples=200, deadline=None)
def test_ranks_agree_with_counting(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, relevant = problem
    expected = [brute_force_rank(*row) for row in zip(scores.tolist(), relevant.tolist(), strict=True)]
    found = ranked(scores, relevant).rank_Q
    assert found.tolist() == expected
    for k in (1, 2, 5, 10):
        assert recall(found, k) == pytest.approx(np.mean([rank <= k for rank in expected]))
    assert mean_rank(found) == pytest.approx(np.mean(expected))
    assert median_rank(found) == pytest.approx(np.median(expected))


@given(problems(), st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_the_best_items_are_those_of_a_stable_sort(problem: tuple[torch.Tensor, torch.Tensor], top: int) -> None:
    scores, relevant = problem
    found = ranked(scores, relevant, top)
    expected = order(scores)[:, :top]
    assert found.best_QK.tolist() == expected.tolist()
    assert torch.equal(found.score_QK, scores.gather(1, expected))


@given(problems(), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_reranking_sorts_the_head_alone(problem: tuple[torch.Tensor, torch.Tensor], top: int, random: Random) -> None:
    scores, relevant = problem
    match = torch.tensor([[random.random() for _ in row] for row in scores.tolist()])
    expected, heads = [], []
    for score_row, match_row, relevant_row in zip(scores.tolist(), match.tolist(), relevant.tolist(), strict=True):
        items = sorted(range(len(score_row)), key=lambda item: (-score_row[item], item))
        items[:top] = sorted(items[:top], key=lambda item: -match_row[item])
        expected.append(1 + next(place for place, item in enumerate(items) if relevant_row[item]))
        heads.append(items[:top])
    first = ranked(scores, relevant, top)
    found = rerank(first, match.gather(1, first.best_QK.long()), relevance_of(relevant))
    assert found.rank_Q.tolist() == expected
    assert found.best_QK.tolist() == heads


def test_equal_matches_keep_the_order_by_similarity() -> None:
    scores, relevant = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[True, False, False]])
    found = rerank(ranked(scores, relevant, 3), torch.zeros(1, 3), relevance_of(relevant))
    assert found.best_QK.tolist() == [[1, 2, 0]]
    assert found.rank_Q.tolist() == [3]


def test_queries_are_ranked_alike_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, relevant = torch.rand(45, 8, generator=generator), torch.eye(8, dtype=torch.bool)[torch.arange(45) % 8]
    match = torch.rand(45, 3, generator=generator)

    def both() -> list[Ranking]:
        first = ranked(scores, relevant, 3)
        return [first, rerank(first, match, relevance_of(relevant))]

    at_once = both()
    monkeypatch.setattr(ranking, "BLOCK_ITEMS", 56)
    for one, other in zip(at_once, both(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(_columns(one), _columns(other), strict=True))


def _columns(one: Ranking) -> tuple[torch.Tensor, ...]:
    return one.rank_Q, one.best_QK, one.score_QK


def test_equal_embeddings_tie_wherever_they_stand() -> None:
    generator = torch.Generator().manual_seed(1)
    query, item = torch.randn(1, 256, generator=generator), torch.randn(256, generator=generator)
    relevant = torch.zeros(1, 331, dtype=torch.bool)
    relevant[0, 317] = True
    found = rank_by_similarity(query, item.repeat(331, 1), relevance_of(relevant), 331)
    assert found.best_QK.tolist() == [list(range(331))]
    assert found.rank_Q.tolist() == [318]


def test_keys_are_ordered_as_scores_and_then_by_index() -> None:
    scores = [3.0, -0.0, 0.0, -2.5, math.inf, -math.inf, 1e-40, -1e-40, 3.0, math.nan, -math.inf]
    keys = sort_keys(torch.tensor([scores]))[0].tolist()
    assert len(set(keys)) == len(keys)
    values = [-math.inf if math.isnan(score) else score for score in scores]
    expected = sorted(range(len(scores)), key=lambda item: (-values[item], item))
    assert sorted(range(len(scores)), key=lambda item: -keys[item]) == expected


@pytest.mark.parametrize(
    "relevant",
    [
        [[True, False, False, False]],
        [[True, True, False, False, False]],
        [[True, False, False], [True, True, True], [False, True, True]],
        [[True]],
    ],
)
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_chance_is_the_mean_over_all_orders(relevant: list[list[bool]], k: int) -> None:
    hits = [any(row[item] for item in items[:k]) for row in relevant for items in permutations(range(len(row)))]
    assert chance_recall(relevance_of(torch.tensor(relevant)), k) == pytest.approx(sum(hits) / len(hits), abs=1e-12)


def test_chance_of_one_right_item_is_k_of_n() -> None:
    assert chance_recall(relevance_of(torch.eye(500, dtype=torch.bool)), 10) == pytest.approx(10 / 500, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_model_that_says_nothing_scores_at_chance(value: float) -> None:
    relevance = relevance_of(torch.eye(50, dtype=torch.bool))
    found = rank_by_similarity(torch.full((50, 1), value), torch.ones(50, 1), relevance, 5)
    assert recall(found.rank_Q, 5) == pytest.approx(chance_recall(relevance, 5))


def test_nan_never_ranks_first() -> None:
    assert order(torch.tensor([[math.nan, -5.0, math.nan, 1.0]])).tolist() == [[3, 1, 0, 2]]


def test_a_query_without_a_relevant_item_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one relevant"):
        relevance_of(torch.tensor([[True, False], [False, False]]))


def test_relevance_knows_its_reverse_and_its_members() -> None:
    relevant = torch.tensor([[True, False, True], [False, True, False]])
    reverse = relevance_of(relevant).reverse
    assert torch.equal(reverse.query_P, torch.tensor([0, 1, 2]))
    assert torch.equal(reverse.item_P, torch.tensor([0, 1, 0]))
    every = torch.arange(3).expand(2, 3)
    assert torch.equal(relevance_of(relevant).contains(every, torch.tensor([[0], [1]])), relevant)


def test_chunks_cover_every_row_once() -> None:
    assert [list(range(7))[piece] for piece in chunks(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks(0, 3)) == []
