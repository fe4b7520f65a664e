"""What tensors do not show: facts of a model that its name tells, or the files beside its weights.

Heads, the epsilon of LayerNorms, the activation, the normalisation of pixels: weights run with other values than they
were trained with, without any error, and are worth less. Such values are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer

from workloads.contract import WorkloadError
from workloads.nn.meta import on_meta

CONFIG_FILE, PIXELS_FILE = "config.json", "preprocessor_config.json"
"""Files of transformers, and of timm, beside weights."""

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".h5", ".ckpt")

NEARLY = 0.06
"""Means and deviations that differ by no more count as the same, but are told: ImageNet's and CLIP's do not, and the
official ALBEF starts DeiT, trained with the former, on pixels normalised by the latter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts of an encoder; None where unknown.

    Args:
        source: who says so: a file, or a name.
        name: of the architecture in timm.
        kind: architecture as transformers calls it, for example vit or bert.
        heads: attention heads.
        norm_epsilon: epsilon of the LayerNorms.
        activation: of the feed-forward blocks; gelu is the exact one.
        positions: kind of the position embeddings.
        vocabulary: number of word pieces.
        mean: of red, green and blue in [0, 1], subtracted from pixels.
        std: what the result is divided by.
    """

    source: str
    name: str | None = None
    kind: str | None = None
    heads: int | None = None
    norm_epsilon: float | None = None
    activation: str | None = None
    positions: str | None = None
    vocabulary: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


TRANSFORMERS_KEYS: Mapping[str, str] = {
    "kind": "model_type",
    "heads": "num_attention_heads",
    "norm_epsilon": "layer_norm_eps",
    "activation": "hidden_act",
    "positions": "position_embedding_type",
    "vocabulary": "vocab_size",
}
"""Keys of `config.json`, by fact."""


def facts_beside(weights: Path, key: str) -> list[Facts]:
    """Return the facts in the files beside weights, provided that these files belong to them alone.

    Args:
        weights: the file of weights, or the index of its shards.
        key: recipe key that names them, for messages.

    Raises:
        WorkloadError: when such a file is no JSON object.
    """
    if not describes(weights):
        return []
    facts = []
    for name, read in {CONFIG_FILE: _of_config, PIXELS_FILE: _of_pixels}.items():
        path = weights.parent / name
        if path.is_file():
            facts.append(read(_object(path, key), str(path)))
    return facts


def describes(weights: Path) -> bool:
    """Return whether the files beside weights belong to them: they have a usual name, or no other weights are there."""
    if weights.name.startswith(("model.", "pytorch_model.")):
        return True
    return not any(path.suffix in SUFFIXES and path.name != weights.name for path in weights.parent.iterdir())


def _object(path: Path, key: str) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{key}: {path} beside the weights is damaged ({error}); correct or remove it") from error
    if not isinstance(content, dict):
        raise WorkloadError(f"{key}: {path} beside the weights holds no JSON object; correct or remove it")
    return content


def _of_config(content: Mapping[str, Any], source: str) -> Facts:
    if isinstance(timm := content.get("pretrained_cfg"), dict):
        architecture = content.get("architecture")
        name = architecture if isinstance(architecture, str) else None
        pixels = {"mean": _rgb(timm.get("mean")), "std": _rgb(timm.get("std"))}
        return Facts(source=source, name=name, heads=_heads_of(architecture), **pixels)
    return Facts(source=source, **{fact: content.get(key) for fact, key in TRANSFORMERS_KEYS.items()})


def _heads_of(architecture: Any) -> int | None:
    """Return the attention heads of a ViT that timm has under a name; None for other names."""
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        return None
    model = on_meta(lambda: timm.create_model(architecture))
    block: Any = model.blocks[0] if isinstance(model, VisionTransformer) else None
    return None if block is None else int(block.attn.num_heads)


def _of_pixels(content: Mapping[str, Any], source: str) -> Facts:
    if content.get("do_normalize") is False:
        return Facts(source=source, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Facts(source=source, mean=_rgb(content.get("image_mean")), std=_rgb(content.get("image_std")))


def _rgb(value: Any) -> tuple[float, ...] | None:
    numbers = isinstance(value, list | tuple) and all(isinstance(number, int | float) for number in value)
    return tuple(float(number) for number in value) if numbers and len(value) == 3 else None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the recipe's encoder computes with.

    Args:
        key: recipe key of the encoder's section, for example model.vision.
        facts: its own.
        adjustable: facts that the section's keys of the same names set.
    """

    key: str
    facts: Facts
    adjustable: Sequence[str]

    def differences(self, facts: Facts) -> Iterator[str]:
        """Yield what differs from facts of weights, each with what to do."""
        for name in ("name", "kind", "heads", "norm_epsilon", "activation", "positions", "vocabulary", "mean", "std"):
            theirs, ours = getattr(facts, name), getattr(self.facts, name)
            if theirs is None or ours is None or _same(theirs, ours):
                continue
            fix = f"set {self.key}.{name}={_value(theirs)}" if name in self.adjustable else "choose other weights"
            yield f"{facts.source} says {WORDS[name]} {_value(theirs)}, where the recipe has {_value(ours)}; {fix}"

    def notes(self, facts: Facts) -> Iterator[str]:
        """Yield what differs so little that it is no reason to refuse."""
        for name in ("mean", "std"):
            theirs, ours = getattr(facts, name), getattr(self.facts, name)
            if theirs is not None and _same(theirs, ours) and theirs != ours:
                yield f"its pixels had the {name} {_value(theirs)}, {self.key}.{name} is {_value(ours)}"


WORDS = {
    "name": "its architecture is timm's",
    "kind": "the model is",
    "heads": "its attention heads are",
    "norm_epsilon": "the epsilon of its LayerNorms is",
    "activation": "its activation is",
    "positions": "its position embeddings are",
    "vocabulary": "the size of its vocabulary is",
    "mean": "the mean of its pixels is",
    "std": "the standard deviation of its pixels is",
}


def _same(theirs: Any, ours: Any) -> bool:
    if isinstance(ours, tuple):
        return all(abs(a - b) <= NEARLY for a, b in zip(theirs, ours, strict=True))
    if isinstance(ours, float):
        return isinstance(theirs, int | float) and isclose(theirs, ours, rel_tol=1e-3)
    return bool(theirs == ours)


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(f'{number:g}' for number in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
