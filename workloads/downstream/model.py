"""What a model must offer to be measured on image-text retrieval."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from workloads.nn.features import ImageFeatures, TextFeatures


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
