from __future__ import annotations

import math
from itertools import permutations
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.downstream.ranking import (
    CHUNK,
    chance_recall,
    chunks,
    mean_rank,
    median_rank,
    order,
    ranks,
    recall,
    rerank,
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


@given(problems())
@settings(max_examples=200, deadline=None)
def test_ranks_agree_with_counting(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, relevant = problem
    expected = [brute_force_rank(*row) for row in zip(scores.tolist(), relevant.tolist(), strict=True)]
    found = ranks(scores, relevant)
    assert found.tolist() == expected
    for k in (1, 2, 5, 10):
        assert recall(found, k) == pytest.approx(np.mean([rank <= k for rank in expected]))
    assert mean_rank(found) == pytest.approx(np.mean(expected))
    assert median_rank(found) == pytest.approx(np.median(expected))


@given(problems(), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_reranking_sorts_the_head_alone(problem: tuple[torch.Tensor, torch.Tensor], top: int, random: Random) -> None:
    scores, relevant = problem
    match = torch.tensor([[random.random() for _ in row] for row in scores.tolist()])
    expected = []
    for score_row, match_row, relevant_row in zip(scores.tolist(), match.tolist(), relevant.tolist(), strict=True):
        items = sorted(range(len(score_row)), key=lambda item: (-score_row[item], item))
        items[:top] = sorted(items[:top], key=lambda item: -match_row[item])
        expected.append(1 + next(place for place, item in enumerate(items) if relevant_row[item]))
    assert ranks(scores, relevant, match, top).tolist() == expected


def test_queries_are_ranked_alike_in_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(CHUNK + 5, 8, generator=generator)
    relevant = torch.eye(8, dtype=torch.bool)[torch.arange(CHUNK + 5) % 8]
    one_by_one = [ranks(scores[row : row + 1], relevant[row : row + 1]).item() for row in range(CHUNK + 5)]
    assert ranks(scores, relevant).tolist() == one_by_one


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
    assert chance_recall(torch.tensor(relevant), k) == pytest.approx(sum(hits) / len(hits), abs=1e-12)


def test_chance_of_one_right_item_is_k_of_n() -> None:
    assert chance_recall(torch.eye(500, dtype=torch.bool), 10) == pytest.approx(10 / 500, abs=1e-12)


def test_a_model_that_says_nothing_scores_at_chance() -> None:
    relevant = torch.eye(50, dtype=torch.bool)
    for value in (0.0, math.nan):
        found = ranks(torch.full((50, 50), value), relevant)
        assert recall(found, 5) == pytest.approx(chance_recall(relevant, 5))


def test_nan_never_ranks_first() -> None:
    assert order(torch.tensor([[math.nan, -5.0, math.nan, 1.0]])).tolist() == [[3, 1, 0, 2]]


def test_reranking_more_than_the_gallery_sorts_it_all() -> None:
    match = torch.tensor([[0.1, 0.3, 0.2]])
    assert rerank(torch.tensor([[0, 1, 2]]), match, 99).tolist() == [[1, 2, 0]]


def test_a_query_without_a_relevant_item_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one relevant"):
        ranks(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))


def test_chunks_cover_every_row_once() -> None:
    assert [list(range(7))[piece] for piece in chunks(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks(0, 3)) == []
