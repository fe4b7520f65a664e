"""Sets up how an ALBEF model computes, as the recipe's section `compute` says."""

from __future__ import annotations

from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from workloads.nn.bert import Layer
from workloads.pretrain.albef_config import ComputeConfig
from workloads.pretrain.albef_model import AlbefModel, Encoders


def apply_compute(model: AlbefModel, config: ComputeConfig) -> None:
    """Set up student and teacher; parameters and the names of their state stay the same."""
    for encoders in (model.student, model.teacher):
        encoders.bert.packed = config.packed
        encoders.bert.recompute = config.gradient_checkpointing
        cast(VisionTransformer, encoders.visual_encoder).set_grad_checkpointing(config.gradient_checkpointing)
        if config.compile:
            _compile(encoders)


def _compile(encoders: Encoders) -> None:
    """Compile layer by layer: layers of a kind share their code, so that compilation time does not grow with depth."""
    for block in cast(nn.ModuleList, encoders.visual_encoder.blocks):
        block.compile()
    for layer in encoders.bert.encoder.layer:
        for name in (Layer.attend_text, Layer.attend_text_once, Layer.meet_image, Layer.feed_forward):
            setattr(layer, name.__name__, torch.compile(getattr(layer, name.__name__)))
