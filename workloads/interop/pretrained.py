"""Pretrained weights: what `model.vision_weights` and `model.text_weights` name, compared with the recipe and loaded.

Weights are taken whole or not at all: a tensor that the model lacks is as much a reason to refuse them as one that they
lack, except for the families that `weight_layouts` lists. What was used, missing and left over is returned.

Shapes: N tokens with the class token first, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from workloads.albef.config import PairsConfig
from workloads.albef.model import Encoders, build_image_encoder, build_text_encoder, image_shape
from workloads.albef.model_config import ModelConfig
from workloads.contract import InitialWeights, Problem, WorkloadError
from workloads.interop.model_sources import cached, fetch, fetch_beside, local_path
from workloads.interop.named_encoder import check_named_encoder, load_named_encoder
from workloads.interop.timm_weights import open_timm
from workloads.interop.vocabularies import check_vocabulary
from workloads.interop.weight_facts import CONFIG_FILE, Expected, Facts, facts_beside
from workloads.interop.weight_files import WEIGHT_FILES, Shape, find_in_folder, open_weights
from workloads.interop.weight_fit import (
    OR_RANDOM,
    FoundWeights,
    check_sizes,
    compare_facts,
    copy_tensors,
    match,
    parameter_names,
    refusal,
)
from workloads.interop.weight_layouts import (
    IMAGE_BLOCKS,
    IMAGE_LEFT_OVER,
    TEXT_LAYERS,
    TEXT_LEFT_OVER,
    count_blocks,
    features,
    image_encoder_names,
    text_encoder_names,
    unexpected,
)
from workloads.nn.bert import BertForMaskedLM
from workloads.nn.meta import on_meta, without_values
from workloads.nn.vision import grid_of, resize_positions
from workloads.transforms.text import VOCABULARY_FILES

OR_NAMED = f", name their architecture in model.vision.name{OR_RANDOM}"
"""What a user can do whose image encoder is no plain ViT."""

VISION_KEY, TEXT_KEY = "model.vision_weights", "model.text_weights"


def load_initial_weights(encoders: Encoders, config: PairsConfig) -> tuple[InitialWeights, ...]:
    """Load the weights that the recipe names into both encoders; what is null stays at random.

    Raises:
        WorkloadError: when weights cannot be found or do not fit the recipe.
    """
    named = config.model.vision.name is not None
    return (
        (load_named_encoder if named else load_vision_weights)(encoders.visual_encoder, config.model),
        load_text_weights(encoders.text_encoder, config),
    )


def check_initial_weights(config: PairsConfig) -> Iterator[Problem]:
    """Yield why weights on this machine would be refused; their values are not read, and nothing is downloaded."""
    for key, check in {VISION_KEY: _check_vision, TEXT_KEY: _check_text}.items():
        try:
            check(config)
        except WorkloadError as error:
            yield Problem(key, str(error).removeprefix(f"{key}: "))


def _check_vision(config: PairsConfig) -> None:
    if config.model.vision_weights is None:
        return
    encoder = without_values(lambda: build_image_encoder(config.model))
    if config.model.vision.name is not None:
        check_named_encoder(encoder, config.model)
    else:
        match_vision(find_vision_weights(config.model), encoder, config.model)


def _check_text(config: PairsConfig) -> None:
    if config.model.text_weights is not None:
        found = local_text_weights(config.model)
        if found is not None:
            image_width = image_shape(config.model).width
            match_text(found, on_meta(lambda: build_text_encoder(config.model, image_width)), config.model)
            check_vocabulary(config, found.file)


def load_vision_weights(encoder: nn.Module, config: ModelConfig) -> InitialWeights:
    """Load a ViT into ALBEF's own image encoder; position embeddings are resized bicubically to the model's grid.

    Args:
        encoder: whose parameters are set.
        config: of the model; `vision_weights` is a local file or folder, or a name in timm.

    Raises:
        WorkloadError: when the weights cannot be found, or are of another model than the recipe's.
    """
    if config.vision_weights is None:
        return InitialWeights(VISION_KEY, None, missing=parameter_names(encoder))
    found = find_vision_weights(config)
    matched = match_vision(found, encoder, config)
    read, grid = found.load(), image_shape(config).grid

    def read_for_grid(name: str) -> Tensor:
        return resize_positions(read(name), grid) if name == "pos_embed" else read(name)

    copy_tensors(encoder, matched, read_for_grid)
    return matched


def find_vision_weights(config: ModelConfig) -> FoundWeights:
    """Open what `model.vision_weights` names; a name in timm is downloaded when it is loaded.

    Raises:
        WorkloadError: when there is nothing, or no weights.
    """
    source = config.vision_weights or ""
    path = local_path(source, VISION_KEY)
    if path is None:
        weights, fact = open_timm(source, VISION_KEY, OR_RANDOM)
        return FoundWeights(VISION_KEY, source, None, weights, {name: (name,) for name in weights.shapes}, (fact,))
    file = find_in_folder(path, VISION_KEY) if path.is_dir() else path
    weights, facts = open_weights(file, VISION_KEY), facts_beside(file, VISION_KEY)
    return FoundWeights(VISION_KEY, source, file, weights, image_encoder_names(weights.shapes), tuple(facts))


def match_vision(found: FoundWeights, encoder: nn.Module, config: ModelConfig) -> InitialWeights:
    """Return what of the weights the image encoder uses; no values are read.

    Raises:
        WorkloadError: when they are of another model than the recipe's.
    """
    vision, shapes, depth = config.vision.plain, found.shapes(), count_blocks(found.names, IMAGE_BLOCKS)
    matched = match(found, encoder)
    extra = unexpected(matched.left_over, IMAGE_LEFT_OVER)
    refused = refusal(found, matched.missing, extra, "a plain ViT", ("blocks.", "vit."), OR_NAMED)
    if features(extra):
        raise refused
    _check_positions(found, shapes, config)
    check_sizes(found, shapes, encoder)
    if depth not in (0, vision.depth):
        raise found.error(f"has {depth} blocks, where model.vision.depth is {vision.depth}; set that to {depth}")
    if matched.missing or extra:
        raise refused
    facts = Facts(
        source="the recipe",
        kind="vit",
        heads=vision.heads,
        norm_epsilon=vision.norm_epsilon,
        activation="gelu",
        mean=config.vision.mean,
        std=config.vision.std,
    )
    expected = Expected("model.vision", facts, ("heads", "norm_epsilon", "mean", "std"))
    return compare_facts(found, matched, expected)


def _check_positions(found: FoundWeights, shapes: dict[str, Shape], config: ModelConfig) -> None:
    """Refuse position embeddings that cannot be resized; give the others the shape that resizing leads to."""
    shape = shapes.get("pos_embed")
    if shape is None:
        return
    if len(shape) != 3 or grid_of(shape[1]) is None:
        tokens = shape[1] if len(shape) == 3 else shape
        raise found.error(
            f"is no plain ViT: its {tokens} position embeddings are not of a class token and a square of patches; "
            f"choose a plain ViT{OR_RANDOM}"
        )
    height, width = image_shape(config).grid
    shapes["pos_embed"] = (shape[0], 1 + height * width, shape[2])


def load_text_weights(encoder: BertForMaskedLM, config: PairsConfig) -> InitialWeights:
    """Load a BERT into text and fusion layers, embeddings and, if it has one, the masked-language head.

    The lowest layers of the BERT are used; cross-attention keeps its random initial values.

    Args:
        encoder: whose parameters are set.
        config: its `model.text_weights` is a local folder or file, "minilm", or a name on the Hugging Face hub.

    Raises:
        WorkloadError: when the weights cannot be found, or are of another model or vocabulary than the recipe's.
    """
    if config.model.text_weights is None:
        return InitialWeights(TEXT_KEY, None, missing=parameter_names(encoder))
    found = find_text_weights(config.model)
    matched = match_text(found, encoder, config.model)
    check_vocabulary(config, found.file)
    read = found.load()
    _check_tied(found, read)
    copy_tensors(encoder, matched, read)
    return matched


def find_text_weights(config: ModelConfig) -> FoundWeights:
    """Open what `model.text_weights` names, from the hub if it is not local.

    Raises:
        WorkloadError: when there is nothing, or no weights.
    """
    source = config.text_weights or ""
    path = local_path(source, TEXT_KEY)
    if path is None:
        path = fetch(source, WEIGHT_FILES, TEXT_KEY, OR_RANDOM)
        fetch_beside(source, (CONFIG_FILE, *VOCABULARY_FILES))
    return _open_text_weights(source, path)


def local_text_weights(config: ModelConfig) -> FoundWeights | None:
    """Open what `model.text_weights` names, None when it is neither local nor in the hub's cache.

    Raises:
        WorkloadError: when it is written as a path and nothing is there, or no weights.
    """
    source = config.text_weights or ""
    path = local_path(source, TEXT_KEY) or cached(source, WEIGHT_FILES)
    return None if path is None else _open_text_weights(source, path)


def _open_text_weights(source: str, path: Path) -> FoundWeights:
    file = find_in_folder(path, TEXT_KEY) if path.is_dir() else path
    weights, facts = open_weights(file, TEXT_KEY), facts_beside(file, TEXT_KEY)
    return FoundWeights(TEXT_KEY, source, file, weights, text_encoder_names(weights.shapes), tuple(facts))


def match_text(found: FoundWeights, encoder: BertForMaskedLM, config: ModelConfig) -> InitialWeights:
    """Return what of the weights the text encoder uses; no values are read.

    Raises:
        WorkloadError: when they are of another model than the recipe's.
    """
    text = config.text
    facts = Facts(
        source="the recipe",
        kind="bert",
        heads=text.heads,
        norm_epsilon=1e-12,
        activation="gelu",
        positions="absolute",
        vocabulary=text.vocabulary,
    )
    matched = match(found, encoder)
    missing = tuple(name for name in matched.missing if name.startswith("bert.") and ".crossattention." not in name)
    layers, depth = text.layers + text.fusion_layers, count_blocks(found.names, TEXT_LAYERS)
    above = tuple(f"{TEXT_LAYERS}{number}." for number in range(layers, depth))
    extra = tuple(name for name in unexpected(matched.left_over, TEXT_LEFT_OVER) if not name.startswith(above))
    refused = refusal(found, missing, extra, "a BERT", ("bert.",))
    if features(extra):
        raise refused
    check_sizes(found, found.shapes(), encoder)
    if missing and 0 < depth < layers:
        raise found.error(
            f"has {depth} layers, where model.text.layers and model.text.fusion_layers are {layers} together; lower "
            "them, or choose a BERT with more layers"
        )
    if missing or extra:
        raise refused
    return compare_facts(found, matched, Expected("model.text", facts, ("heads", "vocabulary")))


def _check_tied(found: FoundWeights, read: Callable[[str], Tensor]) -> None:
    """Refuse a head with word embeddings of its own, since the model has none."""
    ties = {"weight": "bert.embeddings.word_embeddings.weight", "bias": "cls.predictions.bias"}
    for kind, name in ties.items():
        tied = f"cls.predictions.decoder.{kind}"
        if tied in found.names and name in found.names and not torch.equal(read(tied), read(name)):
            raise found.error(f"has a {tied} that is not equal to {name}, to which the model ties it; choose a BERT")
