"""Model sizes by name: what a preset or a timm name stands for in a recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

VIT_NAME = re.compile(r"(?:vit|deit)_(?P<size>tiny|small|base|large)_patch(?P<patch>\d+)_\d+(?:\..+)?")
"""timm names whose architecture is the plain ViT."""

VIT_SIZES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "mini": {
        "model": {
            "image_size": 128,
            "vision": {"patch": 16, "width": 384, "depth": 6, "heads": 6},
            "text": {"width": 384, "layers": 3, "fusion_layers": 3, "heads": 12},
            "vision_weights": None,
            "text_weights": "minilm",
        },
        "text": {"tokenizer": "minilm"},
        "contrastive": {"queue_size": 4096},
    },
    "tiny": {
        "model": {
            "image_size": 64,
            "embed_dim": 128,
            "dropout": 0.0,
            "vision": {"patch": 8, "width": 128, "depth": 3, "heads": 2},
            "text": {"width": 384, "layers": 1, "fusion_layers": 1, "heads": 12},
            "vision_weights": None,
            "text_weights": "minilm",
        },
        "text": {"tokenizer": "minilm"},
        "contrastive": {"queue_size": 1024},
    },
}
"""Recipe fragments over the defaults, which are the paper's (the preset `base`)."""


def fill_in_preset(values: Any) -> Any:
    """Return recipe values with those of the preset, and of a named ViT, where the recipe says nothing.

    The recipe's own values win, then those of `model.vision.name`, then the preset's. Anything malformed passes
    through unchanged, for validation to report.
    """
    model = values.get("model", {}) if isinstance(values, Mapping) else None
    if not isinstance(model, Mapping):
        return values
    preset = model.get("preset", "base")
    filled = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    vision = model.get("vision")
    name = vision.get("name") if isinstance(vision, Mapping) else None
    return merged(merged(filled, {"model": {"vision": _sizes_of(name)}}), values)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the values of `over` on top, section by section."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def _sizes_of(name: Any) -> dict[str, int]:
    match = VIT_NAME.fullmatch(name) if isinstance(name, str) else None
    return {**VIT_SIZES[match["size"]], "patch": int(match["patch"])} if match else {}
