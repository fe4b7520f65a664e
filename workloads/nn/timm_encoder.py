"""Any image encoder of timm, through the interfaces that all of its models share.

What an encoder makes of an image follows from the model: `forward_features` gives a sequence of tokens or a feature
map, `forward_head` the vector that stands for the image, `forward_intermediates` the grid of a sequence's patches, and
`group_matcher` its blocks.

Shapes: B images, H and W pixels, N tokens, C width of a token, P width of the vector that stands for the image, h and w
the grid of patches.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from timm.models import PretrainedCfg, group_parameters
from torch import Tensor, nn

from workloads.contract import WorkloadError
from workloads.interop.model_sources import first_line
from workloads.nn.meta import on_meta
from workloads.nn.vision import ImageSize

NAME_KEY = "model.vision.name"
SIZE_KEY = "model.image_size"

REFUSALS = (AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What timm's models raise when they cannot be made, or cannot encode an image, as a recipe asks."""


class ImageOutputs(NamedTuple):
    """What an image encoder makes of images.

    Args:
        tokens_BNC: prefix tokens (class token, registers), if any, then the patches row by row.
        pooled_BP: what stands for the image: class token, attention pool or mean.
    """

    tokens_BNC: Tensor
    pooled_BP: Tensor


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of `ImageOutputs`, and how they come about.

    Args:
        width: C.
        pooled_width: P.
        grid: h and w.
        prefix_tokens: tokens before those of the patches.
        pooling: what stands for the image, in words.
    """

    width: int
    pooled_width: int
    grid: tuple[int, int]
    prefix_tokens: int
    pooling: str

    def __str__(self) -> str:
        """Return a summary in one line."""
        height, width = self.grid
        prefix = f" after {self.prefix_tokens} of the prefix" if self.prefix_tokens else ""
        return (
            f"a grid of {height} x {width} tokens of width {self.width}{prefix}; what stands for the image is its "
            f"{self.pooling}, of width {self.pooled_width}"
        )


def pretrained_statistics(name: str) -> dict[str, Any]:
    """Return `image_size`, `mean` and `std` that timm has for a model; empty when it knows no such name."""
    pretrained = _pretrained(name)
    if pretrained is None:
        return {}
    _, height, width = pretrained.input_size
    size = height if height == width else (height, width)
    return {"image_size": size, "mean": tuple(pretrained.mean), "std": tuple(pretrained.std)}


def _pretrained(name: str) -> PretrainedCfg | None:
    """Return what timm knows of a model's weights; None when it knows no such name or tag."""
    try:
        return timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:
        return None


def create_encoder(name: str, size: ImageSize, classes: int = 0, **options: Any) -> nn.Module:
    """Return timm's model of a name, by default without classifier and with random weights.

    Args:
        name: with or without the tag of its weights.
        size: of the images.
        classes: of the classifier.
        options: passed on to `timm.create_model`.

    Raises:
        WorkloadError: when timm has no such model, or it does not take images of this size.
    """
    check_name(name)
    try:
        return _create(name, size, classes, options)
    except REFUSALS as error:
        raise _size_refused(name, size, error) from error


def _create(name: str, size: ImageSize, classes: int = 0, options: Mapping[str, Any] | None = None) -> nn.Module:
    pretrained = timm.get_pretrained_cfg(name)
    other_size = pretrained is not None and tuple(pretrained.input_size[1:]) != size
    arguments = {**(options or {}), "num_classes": classes}
    if pretrained is not None and pretrained.fixed_input_size and other_size:
        arguments["img_size"] = size
    return timm.create_model(name, **arguments)


def check_name(name: str) -> None:
    """Raise `WorkloadError` when timm has no model of a name, or not the weights of its tag."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), 3, 0.6)
        like = f" such as {', '.join(near)}" if near else "; timm.list_models() names them"
        raise WorkloadError(f"{NAME_KEY}: timm has no model {architecture}; choose one{like}")
    if tag and not timm.is_model_pretrained(name):
        tags = timm.list_pretrained(f"{architecture}.*")
        fix = f"choose {' or '.join(tags[:5]) or architecture}"
        raise WorkloadError(f"{NAME_KEY}: timm has no weights {tag} of {architecture}; {fix}")


@lru_cache
def encoder_shape(name: str, size: ImageSize) -> EncoderShape:
    """Return what the encoder of a name makes of images of a size, computed without values where the model allows it.

    Raises:
        WorkloadError: when it cannot encode them, or its tokens are not those of a grid.
    """
    check_name(name)
    try:
        return _probe(name, size, on_meta(lambda: _create(name, size)))
    except REFUSALS:
        return probe(name, size, create_encoder(name, size))


def probe(name: str, size: ImageSize, encoder: nn.Module) -> EncoderShape:
    """Return what an encoder makes of images of a size, by encoding one.

    Raises:
        WorkloadError: when it cannot encode it, or its tokens are not those of a grid.
    """
    try:
        return _probe(name, size, encoder)
    except REFUSALS as error:
        raise _size_refused(name, size, error) from error


@torch.no_grad()
def _probe(name: str, size: ImageSize, encoder: nn.Module) -> EncoderShape:
    _check_patches(name, size, encoder)
    training = encoder.training
    pixels_1CHW = torch.zeros(1, 3, *size, device=next(encoder.parameters()).device)
    features, pooled_1P = _run(encoder.eval(), pixels_1CHW)
    if not isinstance(features, Tensor) or features.ndim not in (3, 4) or pooled_1P.ndim != 2:
        raise _no_grid(name, "it gives neither a sequence of tokens nor a feature map")
    grid = _grid(name, encoder, features, pixels_1CHW)
    encoder.train(training)
    tokens_1NC = _as_tokens(encoder, features)
    prefix = tokens_1NC.shape[1] - grid[0] * grid[1]
    if prefix < 0 or prefix != getattr(encoder, "num_prefix_tokens", prefix):
        raise _no_grid(name, f"its {tokens_1NC.shape[1]} tokens are not those of its {grid[0]} x {grid[1]} patches")
    return EncoderShape(tokens_1NC.shape[2], pooled_1P.shape[1], grid, prefix, _pooling(encoder))


def _check_patches(name: str, size: ImageSize, encoder: nn.Module) -> None:
    """Refuse images whose margin the encoder would leave out."""
    patch = getattr(getattr(encoder, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and any(side % of_patch for side, of_patch in zip(size, patch, strict=True)):
        raise WorkloadError(
            f"{SIZE_KEY}: {size[0]} x {size[1]} pixels are no multiple of the patches of {name}, "
            f"{patch[0]} x {patch[1]}; choose a multiple"
        )


def _grid(name: str, encoder: Any, features: Tensor, pixels_1CHW: Tensor) -> tuple[int, int]:
    if features.ndim == 4:
        height, width = features.shape[1:3] if _channels_last(encoder) else features.shape[2:]
        return height, width
    try:
        maps = encoder.forward_intermediates(pixels_1CHW, indices=1, output_fmt="NCHW", intermediates_only=True)
    except REFUSALS as error:
        raise _no_grid(name, f"its tokens are not those of a grid ({first_line(error)[:200]})") from error
    height, width = maps[-1].shape[2:]
    return height, width


def _no_grid(name: str, why: str) -> WorkloadError:
    return WorkloadError(
        f"{NAME_KEY}: {name} gives no grid of tokens, which the fusion layers attend to: {why}; choose another encoder"
    )


def _size_refused(name: str, size: ImageSize, error: Exception) -> WorkloadError:
    own = pretrained_statistics(name).get("image_size")
    fix = f"leave it out, for {own}" if own else "choose another size"
    return WorkloadError(
        f"{SIZE_KEY}: {name} takes no images of {size[0]} x {size[1]} pixels ({first_line(error)[:200]}); {fix}"
    )


def _pooling(encoder: Any) -> str:
    pool = getattr(encoder, "global_pool", None) or getattr(getattr(encoder, "head", None), "global_pool", None)
    kind = pool if isinstance(pool, str) else getattr(pool, "pool_type", "avg")
    return {"token": "class token", "map": "attention pool", "avg": "mean"}.get(kind, f"pool ({kind})")


def encode_images(encoder: nn.Module, pixels_B3HW: Tensor) -> ImageOutputs:
    """Encode normalised pixels."""
    features, pooled_BP = _run(encoder, pixels_B3HW)
    return ImageOutputs(_as_tokens(encoder, features), pooled_BP)


def _run(encoder: Any, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
    features = encoder.forward_features(pixels_B3HW)
    return features, encoder.forward_head(features, pre_logits=True)


def _as_tokens(encoder: nn.Module, features: Tensor) -> Tensor:
    if features.ndim == 3:
        return features
    return features.flatten(1, 2) if _channels_last(encoder) else features.flatten(2).transpose(1, 2)


def _channels_last(encoder: nn.Module) -> bool:
    return getattr(encoder, "output_fmt", "NCHW") == "NHWC"


def embed_patches(encoder: nn.Module, pixels_B3HW: Tensor) -> Tensor:
    """Return what the encoder's first layer makes of normalised pixels, in that layer's own layout."""
    embedded: Tensor = _first_layer(encoder)(pixels_B3HW)
    return embedded


def encode_patches(encoder: nn.Module, patches: Tensor, pixels_B3HW: Tensor) -> ImageOutputs:
    """Return what `encode_images` makes of images for which the first layer gives `patches`.

    Args:
        encoder: timm's.
        patches: from `embed_patches`, perhaps perturbed.
        pixels_B3HW: the images, for their shape.
    """
    hook = _first_layer(encoder).register_forward_hook(lambda *_: patches)
    try:
        return encode_images(encoder, pixels_B3HW)
    finally:
        hook.remove()


def _first_layer(encoder: Any) -> nn.Module:
    """Return the module around the convolution that sees the pixels, or the convolution where that is a list of layers.

    Raises:
        WorkloadError: when timm does not name it.
    """
    pretrained = getattr(encoder, "pretrained_cfg", {"first_conv": "patch_embed.proj"})
    first = pretrained["first_conv"]
    if not first:
        name = pretrained["architecture"]
        raise WorkloadError(f"adversarial.image_at: timm names no first layer of {name} to perturb; set it to tokens")
    path = first if isinstance(first, str) else first[0]
    parent = encoder.get_submodule(path.rpartition(".")[0])
    is_list = parent is encoder or isinstance(parent, nn.Sequential | nn.ModuleList)
    layer: nn.Module = encoder.get_submodule(path) if is_list else parent
    return layer


def has_first_layer(name: str) -> bool:
    """Return whether timm names the convolution of a model that sees the pixels."""
    pretrained = _pretrained(name)
    return pretrained is None or bool(pretrained.first_conv)


def block_parameters(encoder: Any) -> list[list[str]]:
    """Return the names of an encoder's parameters: those before its first block, then block by block.

    What follows the last block belongs to it. Without blocks that timm knows of, the list has one entry.
    """
    if not hasattr(encoder, "group_matcher"):
        return [[name for name, _ in encoder.named_parameters()]]
    groups: Mapping[int, list[str]] = group_parameters(encoder, encoder.group_matcher(coarse=False))
    first, *others = groups.values()
    result = [first]
    for names in others:
        if any(part.isdigit() for name in names for part in name.split(".")):
            result.append(names)
        else:  # a head of its own, for example an attention pool
            result[-1] = result[-1] + names
    return result


def whole_modules(module: nn.Module, parameters: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield by name the outermost modules, other than lists, all of whose parameters are among the given."""
    yield from _whole(module, frozenset(parameters), "")


def _whole(module: nn.Module, names: frozenset[str], prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        own = [f"{path}.{parameter}" for parameter, _ in child.named_parameters()]
        if own and names.issuperset(own) and not isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield path, child
        else:
            yield from _whole(child, names, f"{path}.")


@lru_cache
def block_count(name: str) -> int:
    """Return the number of blocks that timm tells of a model.

    Raises:
        WorkloadError: when it has no such model.
    """
    check_name(name)
    return len(block_parameters(_without_values(name))) - 1


def block_modules(encoder: nn.Module, teacher: nn.Module) -> list[nn.Module]:
    """Return the modules that the blocks of an encoder and of its teacher consist of.

    Layers without submodules are left out, and those of the teacher that have no parameters, since they are shared.

    Args:
        encoder: all of it.
        teacher: of the same structure; parts may be missing.
    """
    names = [name for parameters in block_parameters(encoder)[1:] for name, _ in whole_modules(encoder, parameters)]
    modules = [dict(each.named_modules()) for each in (encoder, teacher)]
    return [
        own[name]
        for own in modules
        for name in names
        if name in own and _has_parameters(own[name]) and next(own[name].children(), None) is not None
    ]


@lru_cache
def check_gradient_checkpointing(name: str) -> None:
    """Raise `WorkloadError` when timm has no model of a name, or no gradient checkpointing for it."""
    check_name(name)
    set_gradient_checkpointing(_without_values(name), True)


def _without_values(name: str) -> nn.Module:
    """Return timm's model of a name, without values where the model allows it."""
    try:
        return on_meta(lambda: timm.create_model(name, num_classes=0))
    except REFUSALS:
        model: nn.Module = timm.create_model(name, num_classes=0)
        return model


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def set_gradient_checkpointing(encoder: Any, enabled: bool) -> None:
    """Store only the inputs of an encoder's blocks while training, and compute the rest again.

    Raises:
        WorkloadError: when timm cannot do that with this encoder.
    """
    try:
        encoder.set_grad_checkpointing(enabled)
    except REFUSALS as error:
        if enabled:
            raise WorkloadError(
                "compute.gradient_checkpointing: timm cannot compute this image encoder's activations again; "
                "set it to false"
            ) from error


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Return the layers whose statistics training would change."""
    return [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
