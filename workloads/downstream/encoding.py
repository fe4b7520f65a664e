"""Running samples through a retrieval model: images and distinct texts, batch by batch, results kept on the CPU.

Shapes: I images, T distinct texts, N image tokens, L text tokens, D width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from workloads.contract import BadSample, Block
from workloads.nn.vision import ImageFeatures, TextFeatures
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

    def encode_texts(self, input_ids_BL: Tensor, length_B: Tensor) -> TextFeatures:
        """Encode zero-padded token ids, of which the first `length_B` count."""
        ...

    def match_scores(self, text: TextFeatures, image: ImageFeatures) -> Tensor:
        """Return logits [B, 2] for text b with image b; index 1 stands for a match."""
        ...

    def word_attention(self, input_ids_BL: Tensor, length_B: Tensor, image_B3HW: Tensor) -> Tensor:
        """Return non-negative maps [B, L, h, w]: where each token of text b looks in image b."""
        ...


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usable:
    """One sample that could be read: its row in the evaluated samples, its image, its cleaned captions, its title."""

    row: int
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
        captions: cleaned captions of each image.
        titles: first caption of each image, as stored.
        texts: the block's T distinct captions.
        embeddings: `image_embedding` [I, E] and `text_embedding` [T, E].
        features: `image_tokens` [I, N, D], `text_states` [T, L, D] and `text_mask` [T, L], where they are needed.
        unusable: why the other samples have no image here, by row.
    """

    rows: tuple[int, ...]
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
            yield Usable(row, transform.image(sample), transform.captions(sample), sample.captions[0])
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
        rows, captions, titles = [], [], []
        images: list[Mapping[str, np.ndarray]] = []
        unusable: dict[int, BadSample] = {}
        for batch in batched(_sort_out(read(block, self.transform), unusable), self.batch_size):
            rows += [item.row for item in batch]
            captions += [item.captions for item in batch]
            titles += [item.title for item in batch]
            images.append(self._encode_images([item.image_3HW for item in batch]))
        texts = tuple(dict.fromkeys(text for of_image in captions for text in of_image))
        arrays = _joined(images) | _joined([self._encode_texts(batch) for batch in batched(texts, self.batch_size)])
        embeddings = {name: array for name, array in arrays.items() if name.endswith("_embedding")}
        features = {name: array for name, array in arrays.items() if name not in embeddings} if keep_tokens else {}
        return EncodedBlock(tuple(rows), tuple(captions), tuple(titles), texts, embeddings, features, unusable)

    def _encode_images(self, images_3HW: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        encoded = self.model.encode_images(self.image_batch(images_3HW))
        return {"image_tokens": _array(encoded.tokens_BND), "image_embedding": _array(encoded.embedding_BE)}

    def _encode_texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        encoded = self.model.encode_texts(*self.token_batch(texts))
        return {
            "text_states": _array(encoded.states_BLD),
            "text_mask": encoded.mask_BL.cpu().numpy(),
            "text_embedding": _array(encoded.embedding_BE),
        }

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
