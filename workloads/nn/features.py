"""What an image-text model says about images and about texts.

Shapes: B images or texts, N image tokens with [CLS] first, L text tokens, D width, E embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Encoded images.

    Args:
        tokens_BND: states of the class token and the patches.
        embedding_BE: unit vectors to compare with those of texts.
    """

    tokens_BND: Tensor
    embedding_BE: Tensor


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Encoded texts.

    Args:
        states_BLD: states after the text layers, [CLS] first.
        mask_BL: True at tokens, False at padding.
        embedding_BE: unit vectors to compare with those of images.
    """

    states_BLD: Tensor
    mask_BL: Tensor
    embedding_BE: Tensor
