"""Weights of an image encoder that a recipe names, `model.vision.name`: timm's own, a file, or those of a package.

timm's converter of the architecture, the `checkpoint_filter_fn` in its module, renames the tensors of the project that
published the model and resizes position embeddings to the encoder's grid. Then every parameter and every statistic of
the encoder has to be there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from workloads.albef.config import ModelConfig
from workloads.contract import InitialWeights, WorkloadError
from workloads.interop.efficientnet_lite0 import ARCHITECTURE, lite0_name
from workloads.interop.model_sources import LITE0, first_line, local_path
from workloads.interop.timm_weights import facts_of, open_timm, pixel_facts
from workloads.interop.weight_facts import Expected, facts_beside
from workloads.interop.weight_files import Shape, find_in_folder, open_weights
from workloads.interop.weight_fit import (
    OR_RANDOM,
    FoundWeights,
    compare_facts,
    copy_tensors,
    listed,
    parameter_names,
)
from workloads.interop.weight_layouts import IMAGE_LEFT_OVER, image_encoder_names, recognised, unexpected
from workloads.nn.timm_encoder import REFUSALS, batch_norms

KEY = "model.vision_weights"
ADJUSTABLE = ("name", "mean", "std")
"""Facts that keys of `model.vision` set; all others come with the name."""

PATCHES = "patch_embed.proj.weight"
"""End of the names of convolutions that make patches; timm would resize them."""

COUNTERS = "num_batches_tracked"
"""Numbers that BatchNorm keeps for training; without them weights are whole."""

Tensors = Mapping[str, Tensor]


def load_named_encoder(encoder: nn.Module, config: ModelConfig) -> InitialWeights:
    """Load weights into the image encoder that `model.vision.name` names.

    Args:
        encoder: whose parameters and statistics are set.
        config: of the model; null `vision_weights` leave the encoder as it is.

    Raises:
        WorkloadError: when the weights cannot be found, or are of another model than the recipe's.
    """
    if config.vision_weights is None:
        notes = (UNTRAINED_STATISTICS,) if batch_norms(encoder) else ()
        return InitialWeights(KEY, None, missing=parameter_names(encoder), notes=notes)
    found = find_named_weights(config)
    notes = _check_facts(found, encoder, config)
    tensors = _converted_values(found, encoder, config)
    matched = _match(found, encoder, config, tensors)
    copy_tensors(encoder, matched, tensors.__getitem__)
    return replace(matched, notes=(*matched.notes, *notes))


def _converted_values(found: FoundWeights, encoder: nn.Module, config: ModelConfig) -> Tensors:
    read = found.load()
    return _converted(found, encoder, architecture(config), {name: read(name) for name in found.names})


def _check_facts(found: FoundWeights, encoder: nn.Module, config: ModelConfig) -> Sequence[str]:
    """Compare what the source and the files beside the weights tell; return notes on what differs a little."""
    vision = config.vision
    ours = replace(facts_of("the recipe", encoder), name=architecture(config), mean=vision.mean, std=vision.std)
    return compare_facts(found, InitialWeights(KEY, found.source), Expected("model.vision", ours, ADJUSTABLE)).notes


def architecture(config: ModelConfig) -> str:
    """Return the name of the recipe's image encoder in timm, without the tag of its weights."""
    return (config.vision.name or "").partition(".")[0]


UNTRAINED_STATISTICS = (
    "training does not change the statistics of its BatchNorm layers, which without weights are those of no images at "
    f"all; name weights in {KEY}, or an encoder without BatchNorm"
)
"""What is wrong with an encoder that has BatchNorm and random weights."""


def check_named_encoder(encoder: nn.Module, config: ModelConfig) -> None:
    """Compare weights on this machine with the recipe; values are read only where timm's converter needs them.

    Args:
        encoder: without values.
        config: of the model, with `vision_weights`.

    Raises:
        WorkloadError: when the weights cannot be found, or are of another model than the recipe's.
    """
    found = find_named_weights(config)
    _check_facts(found, encoder, config)
    shapes = {name: torch.empty(shape, device="meta") for name, shape in found.shapes().items()}
    try:
        tensors = _converted(found, encoder, architecture(config), shapes)
    except WorkloadError:
        tensors = _converted_values(found, encoder, config)
    _match(found, encoder, config, tensors)


def find_named_weights(config: ModelConfig) -> FoundWeights:
    """Open what `model.vision_weights` names; a name in timm is downloaded when it is loaded.

    Raises:
        WorkloadError: when there is nothing, or no weights.
    """
    source, size = config.vision_weights or "", config.image_hw
    path = local_path(source, KEY)
    if path is None:
        weights, fact = open_timm(source, KEY, OR_RANDOM, size)
        return FoundWeights(KEY, source, None, weights, {name: (name,) for name in weights.shapes}, (fact,))
    file = find_in_folder(path, KEY) if path.is_dir() else path
    weights = open_weights(file, KEY)
    if source == LITE0:
        names = {lite0_name(name): (name,) for name in weights.shapes}
        return FoundWeights(KEY, source, file, weights, names, (pixel_facts(ARCHITECTURE, source),))
    return FoundWeights(
        KEY, source, file, weights, image_encoder_names(weights.shapes), tuple(facts_beside(file, KEY))
    )


def _converted(found: FoundWeights, encoder: nn.Module, name: str, tensors: Tensors) -> Tensors:
    """Return tensors by the encoder's names, resized to its grid; those of a name in timm are so already.

    Raises:
        WorkloadError: when timm's converter cannot handle them.
    """
    convert = None if found.file is None else _converter(name)
    if convert is None:
        return tensors
    try:
        converted = convert(dict(tensors), encoder)
    except (*REFUSALS, KeyError) as error:
        raise _other_weights(found, f"timm cannot convert it ({first_line(error)})", name) from error
    return {name: tensor for name, tensor in converted.items() if isinstance(tensor, Tensor)}


def _converter(name: str) -> Callable[[dict[str, Tensor], nn.Module], Tensors] | None:
    module = sys.modules[model_entrypoint(name).__module__]
    return getattr(module, "checkpoint_filter_fn", None)


def _match(found: FoundWeights, encoder: nn.Module, config: ModelConfig, tensors: Tensors) -> InitialWeights:
    """Return what of converted weights the encoder uses.

    Raises:
        WorkloadError: when they are of another model than the recipe's.
    """
    name, ours, raw = architecture(config), encoder.state_dict(), found.shapes()
    used = tuple(tensor for tensor in ours if tensor in tensors)
    missing = tuple(tensor for tensor in ours if tensor not in tensors and not tensor.endswith(COUNTERS))
    dropped = [tensor for tensor in raw if tensor not in tensors] if raw.keys() >= tensors.keys() else []
    left_over = tuple(tensor for tensor in tensors if tensor not in ours)
    if missing or unexpected(left_over, _heads(encoder)):
        raise _other_tensors(found, encoder, name, missing, unexpected(left_over, _heads(encoder)))
    for tensor in used:
        _check_shape(found, name, tensor, raw.get(tensor), tuple(tensors[tensor].shape), tuple(ours[tensor].shape))
    resized = [tensor for tensor in used if raw.get(tensor, ours[tensor].shape) != tuple(ours[tensor].shape)]
    notes = (f"{listed(tuple(resized))} resized for {config.image_hw[0]} x {config.image_hw[1]} pixels",) if resized else ()
    return InitialWeights(KEY, found.source, used, (), (*left_over, *dropped), notes)


def _heads(encoder: nn.Module) -> Mapping[str, str]:
    """Return the families of tensors that may be left over; timm says what the classifier is called."""
    pretrained: Any = getattr(encoder, "pretrained_cfg", None)
    classifier = (pretrained or {}).get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return IMAGE_LEFT_OVER | {name: rf"{re.escape(name)}\..+" for name in names}


def _check_shape(
    found: FoundWeights, name: str, tensor: str, raw: Shape | None, converted: Shape, ours: Shape
) -> None:
    """Refuse a tensor of another shape, and patches of another size, which timm would resize."""
    if raw is not None and tensor.endswith(PATCHES) and len(raw) == 4 and raw[2:] != ours[2:]:
        what = f"holds {tensor} for patches of {raw[2]} x {raw[3]} pixels, where those of {name} have {ours[2]} x {ours[3]}"
        raise _other_weights(found, what, name)
    if converted != ours:
        raise _other_weights(found, f"holds {tensor} of shape {list(converted)}, where {name} has {list(ours)}", name)


def _other_tensors(
    found: FoundWeights, encoder: nn.Module, name: str, missing: tuple[str, ...], extra: tuple[str, ...]
) -> WorkloadError:
    own = tuple(f"{child}." for child, _ in encoder.named_children())
    foreign = [tensor for tensor in found.names if not tensor.startswith(own)]
    reasons = [f"lacks {listed(missing)}"] if missing else []
    if extra:
        reasons.append(f"has {listed(extra)}, which {name} does not have")
    likeness = f" ({recognised(foreign)})" if missing and foreign else ""
    return _other_weights(found, " and ".join(reasons) + likeness, name)


def _other_weights(found: FoundWeights, what: str, name: str) -> WorkloadError:
    return found.error(
        f"{what}; choose weights of {name}, or name the architecture that these are of in model.vision.name{OR_RANDOM}"
    )
