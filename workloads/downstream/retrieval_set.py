"""The images and texts of a retrieval evaluation, put together from the summaries of its blocks.

Samples of one image (see `workloads.contract.image_number`) are one image of the gallery, with the captions of all of
them. Equal captions share their features; whether they are also one text to be searched for is an option, `texts`:

- `distinct`: they are one text, which is relevant to all their images.
- `all`: each is a text of its own, relevant to its own image, as the official ALBEF code and Karpathy's splits count.

Shapes: I images, T texts, U distinct texts, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workloads.contract import Record
from workloads.downstream.ranking import Relevance
from workloads.downstream.retrieval_options import Texts


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """All images and texts of an evaluation.

    Args:
        texts: the T texts, in the order of their first images.
        homes: row of the sample that each text comes from first.
        distinct_T: number of the distinct text that each text is, int64.
        text_at_U2: where a distinct text's features are: block, and place in it; int64, ascending.
        image_at_I2: likewise of images.
        rows: of the first samples of the I images.
        titles: the images' first captions, as stored.
        text_TE: embeddings.
        image_IE: likewise.
        relevance: of texts, as queries, and images.
    """

    texts: tuple[str, ...]
    homes: tuple[int, ...]
    distinct_T: Tensor
    text_at_U2: np.ndarray
    image_at_I2: np.ndarray
    rows: tuple[int, ...]
    titles: tuple[str, ...]
    text_TE: Tensor
    image_IE: Tensor
    relevance: Relevance

    @classmethod
    def of(cls, summaries: Sequence[Record], texts: Texts) -> RetrievalSet:
        """Put the blocks' summaries together.

        Args:
            summaries: of all blocks, in their order, at least one with a sample.
            texts: whether equal captions are one text.
        """
        images = _Images(summaries)
        distinct = _distinct_texts(summaries)
        number = {caption: number for number, caption in enumerate(distinct)}
        captions, homes, text_P, image_P = _queries(images, texts)
        text_at_U2 = np.array(list(distinct.values()), dtype=np.int64)
        distinct_T = torch.tensor([number[caption] for caption in captions])
        return cls(
            texts=captions,
            homes=homes,
            distinct_T=distinct_T,
            text_at_U2=text_at_U2,
            image_at_I2=np.array(images.places, dtype=np.int64),
            rows=tuple(images.rows),
            titles=tuple(images.titles),
            text_TE=_rows_at(summaries, "text_embedding", text_at_U2)[distinct_T],
            image_IE=_rows_at(summaries, "image_embedding", np.array(images.places)),
            relevance=Relevance.of_pairs(torch.tensor(text_P), torch.tensor(image_P), len(captions), len(images.rows)),
        )


class _Images:
    """The images of a gallery: the first sample of each, and the samples' captions."""

    def __init__(self, summaries: Sequence[Record]) -> None:
        self.places: list[tuple[int, int]] = []
        self.rows: list[int] = []
        self.titles: list[str] = []
        self.captions: list[tuple[int, int, str]] = []
        numbers: dict[int, int] = {}
        for block, place, row, identity, captions, title in _samples(summaries):
            if identity not in numbers:
                numbers[identity] = len(self.rows)
                self.places.append((block, place))
                self.rows.append(row)
                self.titles.append(title)
            self.captions += [(numbers[identity], row, caption) for caption in captions]


def _samples(summaries: Sequence[Record]) -> Iterator[tuple[int, int, int, int, Sequence[str], str]]:
    """Yield block, place, row, image number, captions and title of every sample."""
    for block, summary in enumerate(summaries):
        arrays, values = summary.arrays, summary.values
        columns = (arrays["rows"].tolist(), arrays["image_numbers"].tolist(), values["captions"], values["titles"])
        for place, (row, identity, captions, title) in enumerate(zip(*columns, strict=True)):
            yield block, place, row, identity, captions, title


def _distinct_texts(summaries: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """Return where the features of each distinct text are first: block, and place in it."""
    first: dict[str, tuple[int, int]] = {}
    for block, summary in enumerate(summaries):
        for place, text in enumerate(summary.values["texts"]):
            first.setdefault(text, (block, place))
    return first


def _queries(images: _Images, texts: Texts) -> tuple[tuple[str, ...], tuple[int, ...], list[int], list[int]]:
    """Return texts and their homes, and the relevant pairs as numbers of texts and of images."""
    found: dict[str | int, int] = {}
    captions: list[str] = []
    homes: list[int] = []
    text_P, image_P = [], []
    for place, (image, row, caption) in enumerate(images.captions):
        text = found.setdefault(caption if texts == "distinct" else place, len(found))
        if text == len(captions):
            captions.append(caption)
            homes.append(row)
        text_P.append(text)
        image_P.append(image)
    return tuple(captions), tuple(homes), text_P, image_P


def _rows_at(summaries: Sequence[Record], name: str, at_R2: np.ndarray) -> Tensor:
    """Return rows of the blocks' arrays, [R, E]; `at_R2` says of which block, ascending, and which row there."""
    parts = [summaries[block].arrays[name][at_R2[at_R2[:, 0] == block, 1]] for block in np.unique(at_R2[:, 0]).tolist()]
    return torch.from_numpy(np.concatenate(parts))
