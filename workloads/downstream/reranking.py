"""Scoring candidate pairs of texts and images with the fusion encoder, image by image.

The candidates of both directions are put together, each pair once, and grouped by image: an image is met once, with all
texts that it is a candidate for or that are candidates for it, and its keys and values are computed once.

Shapes: I images, T texts, U distinct texts, P pairs, Q queries, K candidates of a query, N image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from workloads.contract import Chunk, FeatureName, Record
from workloads.downstream.encoding import RetrievalModel
from workloads.downstream.ranking import BLOCK_ITEMS, chunks
from workloads.downstream.retrieval_set import RetrievalSet
from workloads.nn.packed_texts import PackedTexts

MATCH = "match"
"""Kind of a chunk, and name of its result: the pairs' match logits."""

IMAGE_TOKENS = "image_tokens"
TEXT_STATES, TEXT_LENGTHS = "text_states", "text_lengths"
FEATURES = (IMAGE_TOKENS, TEXT_STATES, TEXT_LENGTHS)
"""What the fusion encoder reads of a block: image tokens [I, N, D]; states [S, D] and lengths [U] of packed texts."""

CHUNK_PAIRS = 8192
"""A chunk is full with this many pairs; an image is never cut."""


def candidate_pairs(items: RetrievalSet, image_TK: Tensor, text_IK: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates of both directions, each pair once: images [P], ascending, and distinct texts [P].

    Args:
        items: images and texts.
        image_TK: the images that are candidates for each text.
        text_IK: the texts that are candidates for each image.
    """
    distinct, images = len(items.text_at_U2), torch.arange(len(text_IK))[:, None]
    for_texts = image_TK.long() * distinct + items.distinct_T[:, None]
    for_images = images * distinct + items.distinct_T[text_IK.long()]
    pair_P = np.unique(np.concatenate([for_texts.numpy().ravel(), for_images.numpy().ravel()]))
    return pair_P // distinct, pair_P % distinct


def match_chunks(items: RetrievalSet, image_P: np.ndarray, text_P: np.ndarray) -> Iterator[Chunk]:
    """Yield the pairs as pieces of work: whole images of one block, in order.

    Args:
        items: images and texts.
        image_P: ascending.
        text_P: distinct texts.
    """
    images, starts = np.unique(image_P, return_index=True)
    ends = np.append(starts[1:], len(image_P))
    blocks = items.image_at_I2[images, 0]
    first = 0
    while first < len(images):
        same_block = int(np.searchsorted(blocks, blocks[first], side="right"))
        full = int(np.searchsorted(ends, starts[first] + CHUNK_PAIRS, side="right"))
        last = min(max(full, first + 1), same_block)
        pairs = slice(int(starts[first]), int(ends[last - 1]))
        yield _chunk(items, image_P[pairs], text_P[pairs])
        first = last


def score_chunk(model: RetrievalModel, chunk: Chunk, features: Mapping[FeatureName, np.ndarray]) -> Record:
    """Return the match logits of a chunk's pairs, [P]. None of them depends on the other pairs.

    Args:
        model: with a fusion encoder.
        chunk: from `match_chunks`.
        features: those that it needs.
    """
    task = chunk.task.arrays
    texts = TextStore(features, model.device)
    starts = np.unique(task["image"], return_index=True)[1]
    logits = []
    for start, end in zip(starts, np.append(starts[1:], len(task["image"])), strict=True):
        block, place = task["image_at"][start].tolist()
        tokens_ND = torch.from_numpy(features[block, IMAGE_TOKENS][place]).to(model.device)
        logits.append(model.match_grouped(texts.take(task["text_at"][start:end]), tokens_ND)[:, 1].cpu())
    return Record({MATCH: torch.cat(logits).numpy()})


class TextStore:
    """The packed states of the blocks' texts, on the model's device.

    Args:
        features: of the blocks.
        device: of the model.
    """

    def __init__(self, features: Mapping[FeatureName, np.ndarray], device: torch.device) -> None:
        self._features = features
        self._device = device
        self._blocks: dict[int, tuple[Tensor, np.ndarray, np.ndarray]] = {}

    def take(self, at_T2: np.ndarray) -> PackedTexts:
        """Return the texts at these places: block, ascending, and place in it."""
        states, lengths = [], []
        for block in np.unique(at_T2[:, 0]).tolist():
            states_SD, length_U, start_U = self._block(block)
            place_T = at_T2[at_T2[:, 0] == block, 1]
            length_T = length_U[place_T]
            within_S = np.arange(length_T.sum()) - np.repeat(np.cumsum(length_T) - length_T, length_T)
            token_S = torch.from_numpy(np.repeat(start_U[place_T], length_T) + within_S)
            states.append(states_SD.index_select(0, token_S.to(self._device)))
            lengths.append(length_T)
        return PackedTexts(torch.cat(states), torch.from_numpy(np.concatenate(lengths)))

    def _block(self, number: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Return states [S, D], lengths [U] and first tokens [U] of a block's texts."""
        if number not in self._blocks:
            length_U = self._features[number, TEXT_LENGTHS].astype(np.int64)
            states_SD = torch.from_numpy(self._features[number, TEXT_STATES]).to(self._device)
            self._blocks[number] = (states_SD, length_U, np.cumsum(length_U) - length_U)
        return self._blocks[number]


class MatchScores:
    """The match logits of all scored pairs.

    Args:
        items: images and texts.
        done: chunks with their results, in order.
    """

    def __init__(self, items: RetrievalSet, done: Sequence[tuple[Chunk, Record]]) -> None:
        distinct = len(items.text_at_U2)
        tasks = [chunk.task.arrays for chunk, _ in done]
        numbers = [task["image"].astype(np.int64) * distinct + task["text"] for task in tasks]
        self._items = items
        self._pair_P = torch.from_numpy(np.concatenate(numbers))
        self._match_P = torch.from_numpy(np.concatenate([result.arrays[MATCH] for _, result in done]))

    def of_texts(self, image_TK: Tensor) -> Tensor:
        """Return the logits [T, K] of each text with its candidates."""
        return self._look_up(image_TK, self._items.distinct_T[:, None].expand(image_TK.shape))

    def of_images(self, text_IK: Tensor) -> Tensor:
        """Return the logits [I, K] of each image with its candidates."""
        image_IK = torch.arange(len(text_IK))[:, None].expand(text_IK.shape)
        return self._look_up(image_IK, self._items.distinct_T[text_IK.long()])

    def _look_up(self, image_QK: Tensor, text_QK: Tensor) -> Tensor:
        parts = []
        for rows in chunks(len(image_QK), max(1, BLOCK_ITEMS // image_QK.shape[1])):
            pair_QK = image_QK[rows].long() * len(self._items.text_at_U2) + text_QK[rows]
            parts.append(self._match_P[torch.searchsorted(self._pair_P, pair_QK)])
        return torch.cat(parts)


def _chunk(items: RetrievalSet, image_P: np.ndarray, text_P: np.ndarray) -> Chunk:
    image_at_P2, text_at_P2 = items.image_at_I2[image_P], items.text_at_U2[text_P]
    arrays = {"image": image_P, "text": text_P, "image_at": image_at_P2, "text_at": text_at_P2}
    texts = [(block, name) for block in np.unique(text_at_P2[:, 0]).tolist() for name in (TEXT_STATES, TEXT_LENGTHS)]
    needs = ((int(image_at_P2[0, 0]), IMAGE_TOKENS), *texts)
    task = Record({name: array.astype(np.int32) for name, array in arrays.items()}, {"kind": MATCH})
    return Chunk(task, needs, items=len(image_P))
