"""What a report shows of retrieval: queries with their matches, and where words look in an image.

Shapes: Q queries, K images, L word pieces, W words, h and w the grid of image patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from workloads.contract import Gallery, GalleryRow, Picture, Record, Sample
from workloads.downstream.encoding import ModelUnderTest, batched
from workloads.downstream.ranking import Ranking
from workloads.downstream.retrieval_set import RetrievalSet

MATCHES = 5
"""Images shown per query."""

SPECIAL = frozenset({"[CLS]", "[SEP]", "[PAD]"})


def search_results(items: RetrievalSet, ranking: Ranking, count: int) -> Gallery:
    """Return evenly spaced texts with their best images.

    Args:
        items: images and texts.
        ranking: of the images, for each text.
        count: queries to show.
    """
    shown = evenly_spaced(len(items.texts), count)
    image_QK, score_QK = ranking.best_QK[shown, :MATCHES].long(), ranking.score_QK[shown, :MATCHES]
    text_Q1 = torch.tensor(shown, dtype=torch.long)[:, None]
    relevant_QK = items.relevance.contains(image_QK, text_Q1)
    rows = zip(shown, image_QK.tolist(), score_QK.tolist(), relevant_QK.tolist(), strict=True)
    return Gallery(
        "What captions retrieve",
        "Held-out captions and the images the model ranks first, best on the left, with their scores.",
        tuple(GalleryRow(items.texts[text], _pictures(items, *found)) for text, *found in rows),
    )


def word_maps_of(subject: ModelUnderTest, samples: Mapping[int, Sample], task: Record) -> Record:
    """Return, for each text of a task, its words and where each of them looks in the text's image.

    Args:
        subject: the model.
        samples: by row.
        task: `texts`, and for each of them the row of a sample that it belongs to (`rows`).

    Returns:
        The values `rows` and `words`, and the arrays `maps0`, `maps1` ..., float32 [W, h, w] for each text.
    """
    texts, rows = task.values["texts"], task.values["rows"]
    words, maps = [], []
    for batch in batched(zip(texts, rows, strict=True), subject.batch_size):
        image_B3HW = subject.image_batch([subject.transform.image(samples[row]) for _, row in batch])
        tokens = subject.token_batch([text for text, _ in batch])
        maps_BLhw = subject.model.word_attention(*tokens, image_B3HW).detach().float().cpu().numpy()
        for (text, _), maps_Lhw in zip(batch, maps_BLhw, strict=True):
            found = word_maps(subject.transform.pieces(subject.transform.tokens(text)), maps_Lhw)
            words.append(found[0])
            maps.append(found[1])
    return Record({f"maps{number}": maps_WHW for number, maps_WHW in enumerate(maps)}, {"rows": rows, "words": words})


def heat_map_gallery(found: Sequence[Record]) -> Gallery:
    """Return the gallery of what `word_maps_of` found."""
    rows = [
        _word_row(row, words, one.arrays[f"maps{number}"])
        for one in found
        for number, (row, words) in enumerate(zip(one.values["rows"], one.values["words"], strict=True))
    ]
    return Gallery(
        "Where words look",
        "How much each word draws on each part of the image in the fusion layers' cross-attention.",
        tuple(rows),
    )


def word_maps(pieces: Sequence[str], maps_Lhw: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Merge the maps of word pieces into maps of words, float32 [W, h, w], each scaled to a maximum of 1.

    The map of a word is the mean of its pieces' maps; a map without any weight stays zero.

    Args:
        pieces: word pieces with special tokens, at most L; "##" continues a word.
        maps_Lhw: one non-negative map per piece.
    """
    words: list[str] = []
    members: list[list[int]] = []
    for position, piece in enumerate(pieces):
        if piece.startswith("##") and words:
            words[-1] += piece[2:]
            members[-1].append(position)
        elif piece not in SPECIAL:
            words.append(piece)
            members.append([position])
    maps = [_scaled(maps_Lhw[positions].mean(axis=0)) for positions in members]
    return tuple(words), np.stack(maps).astype(np.float32)


def evenly_spaced(length: int, count: int) -> list[int]:
    """Return at most `count` different positions spread over `length`, the first and the last included."""
    return sorted({round(index) for index in np.linspace(0, length - 1, min(count, length))})


def _pictures(
    items: RetrievalSet, images: Sequence[int], scores: Sequence[float], relevant: Sequence[bool]
) -> tuple[Picture, ...]:
    return tuple(
        Picture(items.rows[image], items.titles[image], score, is_relevant)
        for image, score, is_relevant in zip(images, scores, relevant, strict=True)
    )


def _word_row(index: int, words: Sequence[str], maps_WHW: np.ndarray) -> GalleryRow:
    overlays = (Picture(index, word, map_HW=map_HW) for word, map_HW in zip(words, maps_WHW, strict=True))
    return GalleryRow(" ".join(words), (Picture(index), *overlays))


def _scaled(map_hw: np.ndarray) -> np.ndarray:
    highest = map_hw.max()
    return map_hw / highest if highest > 0 else map_hw
