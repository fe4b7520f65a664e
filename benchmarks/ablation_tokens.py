"""Image tokens of a locked encoder, computed once for all runs, and the workload that takes them in place of pixels.

Shapes: B images of a batch, I all images, N tokens, C their width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from workloads.albef.config import AlbefConfig
from workloads.albef.model import AlbefModel
from workloads.albef.workload import AlbefWorkload
from workloads.contract import KeyedRandom, Sample, WorkloadError
from workloads.transforms.pairs import EvaluationTransform


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """What the locked encoder gives for each image.

    Args:
        file: a NumPy file with float16 [I, N, C].
        rows: key of a sample -> its row.
    """

    file: Path
    rows: Mapping[str, int]

    def open(self) -> np.ndarray:
        """Return the tokens, which are read from the disk as they are needed."""
        return cast(np.ndarray, np.load(self.file, mmap_mode="r"))


BATCH = 32


def precompute(folder: Path, config: AlbefConfig, samples: Sequence[Sample], data: str) -> ImageTokens:
    """Return the tokens of the samples' whole images, from a file of an earlier call where there is one.

    Args:
        folder: for the file.
        config: its image encoder is locked.
        samples: of all runs.
        data: names the corpus and its versions.

    Raises:
        WorkloadError: the encoder's weights cannot be found, or it would be trained.
    """
    model = config.model
    if model.lock.vision != "all" or model.vision.name is None:
        raise WorkloadError("model.lock.vision: must be all, of a named encoder: its tokens are computed once")
    made_of = json.dumps([model.vision.model_dump(), model.vision_weights, model.image_size, data], sort_keys=True)
    file = folder / f"tokens-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _encode(config, samples, file.with_suffix(".part.npy"))
        file.with_suffix(".part.npy").rename(file)
    return ImageTokens(file, {sample.key: row for row, sample in enumerate(samples)})


@torch.no_grad()
def _encode(config: AlbefConfig, samples: Sequence[Sample], part: Path) -> None:
    """Fill a file with the images' tokens; one that was begun is continued, where rows are still zero."""
    torch.set_num_threads(os.cpu_count() or 1)
    student = AlbefWorkload(config).build(torch.device("cpu"), KeyedRandom(("tokens",))).student.eval()
    transform = EvaluationTransform(config.model.image_hw, config.text)
    grid = student.image_shape.grid
    shape = (len(samples), grid[0] * grid[1], student.image_shape.width)
    values = np.lib.format.open_memmap(part, "r+" if part.exists() else "w+", np.float16, shape)
    for start in range(0, len(samples), BATCH):
        if values[start].any():
            continue
        images_B3HW = np.stack([transform.image(sample) for sample in samples[start : start + BATCH]])
        outputs = student.image_outputs(torch.from_numpy(images_B3HW))
        if not torch.allclose(outputs.tokens_BNC.mean(1), outputs.pooled_BP, atol=1e-4):
            raise WorkloadError("model.vision.name: must be an encoder for which the mean of its tokens stands")
        values[start : start + BATCH] = outputs.tokens_BNC.half().numpy()
    values.flush()


class Precomputed(nn.Module):
    """Stands where the locked image encoder stood, and is given its tokens [B, N, C] in place of pixels."""

    def forward_features(self, tokens_BNC: Tensor) -> Tensor:
        """Return the tokens."""
        return tokens_BNC

    def forward_head(self, tokens_BNC: Tensor, pre_logits: bool = True) -> Tensor:
        """Return what stands for the image: the mean of its tokens, [B, C]."""
        return tokens_BNC.mean(1)


class TokenWorkload(AlbefWorkload):
    """ALBEF whose image encoder has run already."""

    def build(self, device: torch.device, draw: KeyedRandom, pretrained: bool = True) -> AlbefModel:
        """Create the model, and put the tokens into the place of its image encoder."""
        model = super().build(device, draw, pretrained)
        model.student.visual_encoder = Precomputed()
        return model
