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

from workloads.contract import BadSample, Sample, WorkloadError
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
    """One sample that could be read: its row in the evaluated samples, its image and its cleaned captions."""

    row: int
    image_3HW: np.ndarray
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unusable:
    """One sample that cannot be used: its row in the evaluated samples, and why."""

    row: int
    fault: BadSample


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """The images of a retrieval set.

    Args:
        rows: row of each image in the evaluated samples.
        captions: cleaned captions of each image.
        features: on the CPU; the tokens are left out (width 0) where they are not needed.
        unusable: why the other samples have no image here, by row.
    """

    rows: tuple[int, ...]
    captions: tuple[tuple[str, ...], ...]
    features: ImageFeatures
    unusable: Mapping[int, BadSample] = field(default_factory=dict)


def read(samples: Sequence[Sample], transform: EvaluationTransform) -> Iterator[Usable | Unusable]:
    """Yield every sample: decoded and with its captions, or why it cannot be used."""
    for row, sample in enumerate(samples):
        try:
            yield Usable(row, transform.image(sample), transform.captions(sample))
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

    def encode_images(self, samples: Iterable[Usable | Unusable], keep_tokens: bool) -> EncodedImages:
        """Encode the usable samples' images.

        Raises:
            WorkloadError: when there is none.
        """
        rows, captions, features = [], [], []
        unusable: dict[int, BadSample] = {}
        for batch in batched(_sort_out(samples, unusable), self.batch_size):
            rows += [item.row for item in batch]
            captions += [item.captions for item in batch]
            encoded = self.model.encode_images(self.image_batch([item.image_3HW for item in batch]))
            features.append(_on_cpu(encoded, keep_tokens))
        if not rows:
            first = f"; the first: {next(iter(unusable.values()))}" if unusable else ""
            found = f"none of {len(unusable)} has an image and a caption that can be used"
            raise WorkloadError(f"no sample to evaluate: {found}{first}")
        return EncodedImages(tuple(rows), tuple(captions), _joined_images(features), unusable)

    def encode_texts(self, texts: Sequence[str]) -> TextFeatures:
        """Encode texts."""
        parts = []
        for batch in batched(texts, self.batch_size):
            part = self.model.encode_texts(*self.token_batch(batch))
            parts.append((part.states_BLD.cpu(), part.mask_BL.cpu(), part.embedding_BE.float().cpu()))
        return TextFeatures(*(torch.cat(column) for column in zip(*parts, strict=True)))

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


def _on_cpu(features: ImageFeatures, keep_tokens: bool) -> ImageFeatures:
    tokens_BND = features.tokens_BND if keep_tokens else features.tokens_BND[:, :0]
    return ImageFeatures(tokens_BND.cpu(), features.embedding_BE.float().cpu())


def _joined_images(parts: Sequence[ImageFeatures]) -> ImageFeatures:
    tokens_IND = torch.cat([part.tokens_BND for part in parts])
    return ImageFeatures(tokens_IND, torch.cat([part.embedding_BE for part in parts]))
