"""ALBEF's image encoder, timm's Vision Transformer, on pixels normalised on the device; features of images and texts.

Shapes: B images or texts, H and W pixels, N tokens with the class token first, P = N - 1 patches, L text tokens,
D width, E embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.nn.pixel_statistics import CLIP_MEAN, CLIP_STD, RGB

ImageSize = tuple[int, int]
"""Height and width in pixels."""


class PixelNormalizer(nn.Module):
    """Turns uint8 pixels into normalised floats; floating-point images pass as normalised already.

    Args:
        mean: of red, green and blue in [0, 1].
        std: their standard deviation.
        memory_format: of the normalised pixels; with channels last, convolutions are faster.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: RGB = CLIP_MEAN, std: RGB = CLIP_STD, memory_format: torch.memory_format = torch.contiguous_format
    ) -> None:
        super().__init__()
        self.memory_format = memory_format
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Return [B, 3, H, W] of the module's dtype."""
        if image_B3HW.is_floating_point():
            return image_B3HW
        pixels_B3HW = image_B3HW.to(self.mean.dtype, memory_format=self.memory_format)
        return (pixels_B3HW - self.mean) / self.std


def build_vision_transformer(
    size: ImageSize, patch: int, width: int, depth: int, heads: int, norm_epsilon: float = 1e-6
) -> nn.Module:
    """Return an untrained plain ViT (Dosovitskiy et al. 2021) with class token and final LayerNorm.

    Its parameters are named as in timm and in the official ALBEF checkpoints.

    Raises:
        AssertionError: when `heads` does not divide `width`.
    """
    model = VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        norm_layer=partial(LayerNorm, eps=norm_epsilon),
    )
    return cast(nn.Module, model)


def grid_of(tokens: int) -> int | None:
    """Return the patches per side of this many tokens, or None when they are no class token and a square."""
    side = math.isqrt(max(tokens - 1, 0))
    return side if side and side * side + 1 == tokens else None


@torch.no_grad()
def resize_positions(positions_1ND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return position embeddings for a grid of h x w patches, [1, 1 + h * w, D].

    Those of the patches are interpolated bicubically, without antialiasing and with `align_corners=False`, as in the
    official ALBEF code; that of the class token is unchanged.

    Raises:
        ValueError: when the patches do not form a square.
    """
    old_grid = grid_of(positions_1ND.shape[1])
    if old_grid is None:
        raise ValueError(f"{positions_1ND.shape[1]} tokens are no class token and a square of patches")
    if (old_grid, old_grid) == grid:
        return positions_1ND
    image_1DHW = positions_1ND[:, 1:].unflatten(1, (old_grid, old_grid)).permute(0, 3, 1, 2)
    resized_1DHW = F.interpolate(image_1DHW, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([positions_1ND[:, :1], resized_1DHW.flatten(2).transpose(1, 2)], dim=1)


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Encoded images.

    Args:
        tokens_BND: what the fusion layers attend to: prefix tokens, if any, and the patches.
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
