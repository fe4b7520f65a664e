"""Starts a model from the weights that its recipe names."""

from __future__ import annotations

from workloads.interop.text_weights import load_text_weights
from workloads.interop.vision_weights import load_vision_weights
from workloads.interop.weights import WeightReport
from workloads.pretrain.albef_config import ModelConfig
from workloads.pretrain.albef_model import Encoders


def load_initial_weights(encoders: Encoders, config: ModelConfig) -> tuple[WeightReport, ...]:
    """Set the encoders' weights from `vision_weights` and `text_weights`, each unless it is None.

    Raises:
        WorkloadError: when weights cannot be found or do not fit.
    """
    reports = []
    if config.vision_weights is not None:
        grid = config.image_size // config.vision.patch
        reports.append(load_vision_weights(encoders.visual_encoder, config.vision_weights, grid))
    if config.text_weights is not None:
        reports.append(load_text_weights(encoders.text_encoder, config.text_weights))
    return tuple(reports)
