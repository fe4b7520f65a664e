"""Position embeddings for another image size.

Shapes: N tokens with the class token first, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def grid_of(positions_1ND: Tensor) -> int | None:
    """Return the patches per side, or None when the patches are no square."""
    side = math.isqrt(max(positions_1ND.shape[1] - 1, 0))
    return side if side * side + 1 == positions_1ND.shape[1] else None


@torch.no_grad()
def resize_positions(positions_1ND: Tensor, grid: int) -> Tensor:
    """Return position embeddings for `grid` patches per side, [1, 1 + grid * grid, D].

    Those of the patches are interpolated bicubically, without antialiasing and with corners not aligned, as in the
    official ALBEF code; that of the class token stays.

    Raises:
        ValueError: when the patches are no square.
    """
    before = grid_of(positions_1ND)
    if before is None:
        raise ValueError(f"{positions_1ND.shape[1]} tokens are no class token and a square of patches")
    if before == grid:
        return positions_1ND
    image_1DHW = positions_1ND[:, 1:].unflatten(1, (before, before)).permute(0, 3, 1, 2)
    resized_1DHW = F.interpolate(image_1DHW, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions_1ND[:, :1], resized_1DHW.flatten(2).transpose(1, 2)], dim=1)
