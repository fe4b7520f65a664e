"""Running samples through a retrieval model: images and distinct texts, batch by batch, results kept on the CPU.

Shapes: I images, T distinct texts, S tokens of them without padding, N image tokens, D width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from workloads.contract import BadSample, Block, image_number
from workloads.nn.packed_texts import PackedTexts
from workloads.nn.vision import ImageFeatures
from workloads.transforms.pairs import EvaluationTransform


class RetrievalModel(Protocol):
    """A dual encoder with a fusion encoder on top, in evaluation mode.

    Shapes: B rows, 3HW an image, N image tokens, L text tokens, E embedding width, hw the grid of image patches.
    """

    @property
    def device(self) -> torch.device:
        """Where the model is; its inputs are moved there."""
        ...

    def encode_images(self, image_B3HW: Tensor) -> ImageFeatures:
        """Encode uint8 images."""
        ...

    def pack_texts(self, input_ids_BL: Tensor, length_B: Tensor) -> tuple[PackedTexts, Tensor]:
        """Encode zero-padded token ids, of which the first `length_B` count; return also unit vectors [B, E]."""
        ...

    def match_grouped(self, texts: PackedTexts, image_ND: Tensor) -> Tensor:
        """Return logits [T, 2] for each text with one image; index 1 stands for a match."""
        ...

    def word_attention(self, input_ids_BL: Tensor, length_B: Tensor, image_B3HW: Tensor) -> Tensor:
        """Return non-negative maps [B, L, h, w]: where each token of text b looks in image b."""
        ...


T = TypeVar("T")

NO_PIXELS = np.empty((3, 0, 0), dtype=np.uint8)

IMAGE_MULTIPLE = 8
"""Batches of images are filled up to a multiple of this, so that an image gives the same in a batch that is not full.

See `workloads.nn.packed_texts` for what a number of rows does to a matrix product.
"""


@dataclass(frozen=True, slots=True)
class Usable:
    """One sample that could be read: its row in the evaluated samples, its image, its cleaned captions, its title.

    `image_number` is that of the contract: equal for samples of one image.
    """

    row: int
    image_number: int
    image_3HW: np.ndarray
    captions: tuple[str, ...]
    title: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """One sample that cannot be used: its row in the evaluated samples, and why."""

    row: int
    fault: BadSample


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A block of samples after the encoders.

    Args:
        rows: row of each of the block's I images.
        image_numbers: equal for samples of one image.
        captions: cleaned captions of each image.
        titles: first caption of each image, as stored.
        texts: the block's T distinct captions.
        embeddings: `image_embedding` [I, E] and `text_embedding` [T, E].
        features: `image_tokens` [I, N, D], `text_states` [S, D] and `text_lengths` [T], where they are needed.
        unusable: why the other samples have no image here, by row.
    """

    rows: tuple[int, ...]
    image_numbers: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    titles: tuple[str, ...]
    texts: tuple[str, ...]
    embeddings: Mapping[str, np.ndarray]
    features: Mapping[str, np.ndarray]
    unusable: Mapping[int, BadSample] = field(default_factory=dict)


def read(block: Block, transform: EvaluationTransform) -> Iterator[Usable | Unusable]:
    """Yield every sample of a block: decoded and with its captions, or why it cannot be used."""
    for row, sample in zip(block.rows, block.samples, strict=True):
        try:
            number = image_number(sample.key, sample.fields)
            yield Usable(row, number, transform.image(sample), transform.captions(sample), sample.captions[0])
        except BadSample as fault:
            yield Unusable(row, fault)


@dataclass(frozen=True, slots=True)
class ModelUnderTest:
    """A model with what it takes to run it on samples.

    Args:
        model: in evaluation mode; its results come back to the CPU.
        transform: reads images and captions.
        batch_size: rows per forward pass.
    """

    model: RetrievalModel
    transform: EvaluationTransform
    batch_size: int

    def encode(self, block: Block, keep_tokens: bool) -> EncodedBlock:
        """Encode a block's usable images and their distinct captions.

        Args:
            block: the samples.
            keep_tokens: whether to keep what the fusion encoder reads.
        """
        usable: list[Usable] = []
        images: list[Mapping[str, np.ndarray]] = []
        unusable: dict[int, BadSample] = {}
        for batch in batched(_sort_out(read(block, self.transform), unusable), self.batch_size):
            images.append(self._encode_images([item.image_3HW for item in batch]))
            usable += [replace(item, image_3HW=NO_PIXELS) for item in batch]
        texts = tuple(dict.fromkeys(text for item in usable for text in item.captions))
        arrays = _joined(images) | _joined([self._encode_texts(batch) for batch in batched(texts, self.batch_size)])
        embeddings = {name: array for name, array in arrays.items() if name.endswith("_embedding")}
        return EncodedBlock(
            tuple(item.row for item in usable),
            tuple(item.image_number for item in usable),
            tuple(item.captions for item in usable),
            tuple(item.title for item in usable),
            texts,
            embeddings,
            {name: array for name, array in arrays.items() if name not in embeddings} if keep_tokens else {},
            unusable,
        )

    def _encode_images(self, images_3HW: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        count = min(len(images_3HW) + -len(images_3HW) % IMAGE_MULTIPLE, self.batch_size)
        fillers = [images_3HW[0]] * (count - len(images_3HW))
        encoded = self.model.encode_images(self.image_batch([*images_3HW, *fillers]))
        columns = {"image_tokens": encoded.tokens_BND, "image_embedding": encoded.embedding_BE}
        return {name: _array(column[: len(images_3HW)]) for name, column in columns.items()}

    def _encode_texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        packed, embedding_TE = self.model.pack_texts(*self.token_batch(texts))
        columns = {"text_states": packed.states_SD, "text_lengths": packed.length_T, "text_embedding": embedding_TE}
        return {name: _array(column) for name, column in columns.items()}

    def image_batch(self, images_3HW: Sequence[np.ndarray]) -> Tensor:
        """Return uint8 [B, 3, H, W] on the model's device."""
        return torch.from_numpy(np.stack(images_3HW)).to(self.model.device)

    def token_batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return `input_ids` int64 [B, L] and `length` int64 [B] on the model's device."""
        tokens = [self.transform.tokens(text) for text in texts]
        input_ids_BL = torch.from_numpy(np.stack([item.input_ids for item in tokens])).long()
        length_B = torch.from_numpy(np.stack([item.length for item in tokens])).long()
        return input_ids_BL.to(self.model.device), length_B.to(self.model.device)


def _sort_out(samples: Iterable[Usable | Unusable], unusable: dict[int, BadSample]) -> Iterator[Usable]:
    """Yield the usable samples; the others' faults go into `unusable`."""
    for sample in samples:
        if isinstance(sample, Unusable):
            unusable[sample.row] = sample.fault
        else:
            yield sample


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items, the last one possibly shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _array(tensor: Tensor) -> np.ndarray:
    """Return a tensor on the CPU; NumPy knows no bfloat16."""
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).cpu().numpy()


def _joined(batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]} if batches else {}
