"""Images and texts of blocks put together, and the pieces of work that their candidate pairs are cut into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from workloads.contract import Chunk, Record
from workloads.downstream import reranking
from workloads.downstream.ranking import rank_by_similarity
from workloads.downstream.reranking import MATCH, MatchScores, candidate_pairs, match_chunks
from workloads.downstream.retrieval_set import RetrievalSet

Samples = Sequence[tuple[int, Sequence[str]]]
"""Image number and captions of each sample."""


def vector(name: str) -> np.ndarray:
    """Return an embedding that is a function of the name."""
    return np.random.default_rng(list(name.encode())).standard_normal(4).astype(np.float32)


def summary(first_row: int, samples: Samples) -> Record:
    texts = tuple(dict.fromkeys(text for _, captions in samples for text in captions))
    arrays = {
        "rows": np.arange(first_row, first_row + len(samples)),
        "image_numbers": np.array([number for number, _ in samples], dtype=np.int64),
    }
    if samples:
        arrays["image_embedding"] = np.stack([vector(f"image {number}") for number, _ in samples])
        arrays["text_embedding"] = np.stack([vector(text) for text in texts])
    captions = [list(captions) for _, captions in samples]
    return Record(arrays, {"captions": captions, "texts": list(texts), "titles": [one[0] for one in captions]})


SAMPLES: Samples = [(7, ["a dog", "a dog"]), (8, ["a cat", "an animal"]), (7, ["a dog", "puppy"]), (9, ["an animal"])]
SUMMARIES = [summary(0, SAMPLES[:1]), summary(1, []), summary(1, SAMPLES[1:])]


def pairs(items: RetrievalSet) -> list[tuple[int, int]]:
    return list(zip(items.relevance.query_P.tolist(), items.relevance.item_P.tolist(), strict=True))


def test_equal_captions_are_one_text_that_is_relevant_to_all_its_images() -> None:
    items = RetrievalSet.of(SUMMARIES, "distinct")
    assert items.texts == ("a dog", "a cat", "an animal", "puppy")
    assert items.homes == (0, 1, 1, 2)
    assert pairs(items) == [(0, 0), (1, 1), (2, 1), (2, 2), (3, 0)]


def test_with_all_texts_every_caption_is_one_that_is_relevant_to_its_own_image() -> None:
    items = RetrievalSet.of(SUMMARIES, "all")
    assert items.texts == ("a dog", "a dog", "a cat", "an animal", "a dog", "puppy", "an animal")
    assert items.homes == (0, 0, 1, 1, 2, 2, 3)
    assert pairs(items) == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 0), (5, 0), (6, 2)]
    assert items.distinct_T.tolist() == [0, 0, 1, 2, 0, 3, 2]
    for text, embedding_E in zip(items.texts, items.text_TE, strict=True):
        assert np.array_equal(embedding_E.numpy(), vector(text))


def test_samples_of_one_image_are_one_image() -> None:
    items = RetrievalSet.of(SUMMARIES, "distinct")
    assert items.rows == (0, 1, 3)
    assert items.titles == ("a dog", "a cat", "an animal")
    assert items.image_at_I2.tolist() == [[0, 0], [2, 0], [2, 2]]
    assert items.text_at_U2.tolist() == [[0, 0], [2, 0], [2, 1], [2, 3]]
    for number, embedding_E in zip((7, 8, 9), items.image_IE, strict=True):
        assert np.array_equal(embedding_E.numpy(), vector(f"image {number}"))


def many(images: int) -> RetrievalSet:
    samples = [(number, [f"one of {number}", f"two of {number}", "the same"]) for number in range(images)]
    blocks = [summary(start, samples[start : start + 5]) for start in range(0, images, 5)]
    return RetrievalSet.of(blocks, "all")


def chunks_of(items: RetrievalSet, top_images: int, top_texts: int) -> list[Chunk]:
    images = rank_by_similarity(items.text_TE, items.image_IE, items.relevance, top_images).best_QK
    texts = rank_by_similarity(items.image_IE, items.text_TE, items.relevance.reverse, top_texts).best_QK
    return list(match_chunks(items, *candidate_pairs(items, images, texts)))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_hold_every_pair_once_and_cut_no_image(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "CHUNK_PAIRS", size)
    items = many(12)
    chunks = chunks_of(items, 3, 4)
    tasks = [chunk.task.arrays for chunk in chunks]
    found = [pair for one in tasks for pair in zip(one["image"].tolist(), one["text"].tolist(), strict=True)]
    assert found == sorted(set(found))
    for chunk in chunks:
        task = chunk.task.arrays
        assert len(set(task["image_at"][:, 0].tolist())) == 1
        assert len(set(task["image"].tolist())) == 1 or chunk.items <= size
        assert np.array_equal(task["image_at"], items.image_at_I2[task["image"]])
        assert np.array_equal(task["text_at"], items.text_at_U2[task["text"]])
        assert {block for block, name in chunk.needs if name == "text_states"} == set(task["text_at"][:, 0].tolist())
    of_images = [set(chunk.task.arrays["image"].tolist()) for chunk in chunks]
    assert sum(map(len, of_images)) == len(set().union(*of_images)) == 12


def test_scores_come_back_for_the_candidates_of_both_directions() -> None:
    items = many(12)
    chunks = chunks_of(items, 3, 4)
    results = [Record({MATCH: one.task.arrays["image"] + 1000.0 * one.task.arrays["text"]}) for one in chunks]
    scores = MatchScores(items, list(zip(chunks, results, strict=True)))
    images = rank_by_similarity(items.text_TE, items.image_IE, items.relevance, 3).best_QK
    texts = rank_by_similarity(items.image_IE, items.text_TE, items.relevance.reverse, 4).best_QK
    assert torch.equal(scores.of_texts(images), images + 1000.0 * items.distinct_T[:, None].double())
    of_images = torch.arange(12)[:, None] + 1000.0 * items.distinct_T[texts.long()].double()
    assert torch.equal(scores.of_images(texts), of_images)


def test_a_gallery_smaller_than_k_is_scored_whole() -> None:
    items = many(3)
    assert sum(chunk.items for chunk in chunks_of(items, 99, 99)) == 3 * len(items.text_at_U2)
