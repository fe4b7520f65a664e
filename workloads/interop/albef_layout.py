"""The layouts of official ALBEF checkpoints: tensor names and their names in our model, and how a layout is recognised.

There are six layouts: of pre-training, retrieval (grounding is the same), visual question answering, visual
entailment, NLVR2 and its pre-training. The text encoder of pre-training is called `text_encoder.bert`, of the others
`text_encoder`; those of NLVR2 have every fusion layer twice, with shared keys and values.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from re import compile as pattern
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from workloads.albef.config import AlbefConfig, deep_merge
from workloads.contract import WorkloadError
from workloads.interop.weight_layouts import recognised
from workloads.nn.vision import grid_of

Tensors = Mapping[str, Tensor]

QUEUES = ("image_queue", "text_queue", "queue_ptr")
BUFFERS = (*QUEUES, "idx_queue")
SHARED = ("temp", "visual_encoder", "vision_proj", "text_encoder", "text_proj", "itm_head")
OTHER_PARTS = ("idx_queue", "text_decoder", "cls_head", "ta_head")
LAYER = pattern(r"(?P<before>text_encoder(?:_m)?\.(?:bert\.)?encoder\.layer\.)(?P<number>\d+)(?P<after>\..+)")
KEYS_AND_VALUES = (".crossattention.self.key.", ".crossattention.self.value.")


@dataclass(frozen=True, slots=True)
class CheckpointLayout:
    """One of the official layouts.

    Args:
        name: as in `albef_keys_NAME`: pretrain, retrieval, vqa, ve, nlvr or nlvr_pretrain.
        text_layers: layers without attention to the image.
    """

    name: str
    text_layers: int

    @property
    def text_prefix(self) -> str:
        """Prefix of the names in the student's text encoder."""
        return "text_encoder.bert." if self.name == "pretrain" else "text_encoder."

    @property
    def paired(self) -> bool:
        """Whether every fusion layer exists twice."""
        return self.name in ("nlvr", "nlvr_pretrain")

    def our_name(self, official: str) -> str | None:
        """Return a tensor's name in our model, or None when the model does not have it."""
        if official in BUFFERS:
            return f"queue.{official}"
        part, _, rest = official.partition(".")
        base, owner = part.removesuffix("_m"), "teacher" if part.endswith("_m") else "student"
        if base not in SHARED or (self.paired and self._is_second(official)):
            return None
        if base == "text_encoder":
            rest = self._in_bert(official, rest)
        return ".".join(filter(None, [owner, base, rest]))

    def known(self, official: str) -> bool:
        """Return whether a tensor that our model does not have belongs to the layout."""
        base = official.partition(".")[0].removesuffix("_m")
        return base in OTHER_PARTS or (self.paired and self._is_second(official))

    def derived(self, official: str, tensors: Tensors) -> Tensor | None:
        """Return a tensor's value as the others determine it, or None when it is independent of them."""
        if official.endswith(".embeddings.position_ids"):
            positions = tensors.get(official.replace("position_ids", "position_embeddings.weight"))
            return None if positions is None else torch.arange(len(positions))[None]
        source = self._tied_to(official)
        return None if source is None else tensors.get(source)

    def _tied_to(self, official: str) -> str | None:
        head, decoder, kind = official.partition(".cls.predictions.decoder.")
        if decoder:
            words = f"{head}.bert.embeddings.word_embeddings.weight"
            return words if kind == "weight" else f"{head}.cls.predictions.bias"
        layer = LAYER.fullmatch(official)
        if layer and self.paired and self._is_second(official) and layer["after"].startswith(KEYS_AND_VALUES):
            return f"{layer['before']}{int(layer['number']) - 1}{layer['after']}"
        return None

    def _in_bert(self, official: str, rest: str) -> str:
        layer = LAYER.fullmatch(official)
        if layer and self.paired and int(layer["number"]) >= self.text_layers:
            number = self.text_layers + (int(layer["number"]) - self.text_layers) // 2
            rest = f"encoder.layer.{number}{layer['after']}"
        return rest if self.name == "pretrain" else f"bert.{rest}"

    def _is_second(self, official: str) -> bool:
        layer = LAYER.fullmatch(official)
        above = int(layer["number"]) - self.text_layers if layer else -1
        return above > 0 and above % 2 == 1


def trained_names(names: Collection[str], shapes: Mapping[str, torch.Size], tied: Collection[str]) -> list[str]:
    """Return the trained parameters in the order of the official optimiser.

    Those without weight decay (1-d ones and biases) come first, each group in the order of the model's names.

    Args:
        names: of the file, in the order of the model's state_dict.
        shapes: by name.
        tied: names of tensors that are a second name of another parameter, or not a parameter.
    """
    trained = [
        name
        for name in names
        if not name.endswith((*BUFFERS, "position_ids")) and name not in tied and not _of_teacher(name)
    ]
    no_decay = [name for name in trained if is_no_decay(name, shapes[name])]
    return no_decay + [name for name in trained if name not in set(no_decay)]


def _of_teacher(name: str) -> bool:
    return name.partition(".")[0].endswith("_m")


def is_no_decay(name: str, shape: torch.Size) -> bool:
    """Return whether a parameter is trained without weight decay."""
    return len(shape) == 1 or name.endswith(".bias")


def canonical_names(ours: Collection[str], layout: str = "pretrain") -> list[str]:
    """Return the official names of all tensors of our model that a layout has, in the official order.

    Args:
        ours: the names of the model's state_dict, in its order.
        layout: pretrain or retrieval; the latter has image ids beside the queues, and no word heads.
    """
    encoders = ["visual_encoder", "text_encoder", "vision_proj", "text_proj"]
    teacher = ["visual_encoder", "vision_proj", "text_encoder", "text_proj"]
    order = [*(f"student.{part}" for part in [*encoders, "itm_head"]), *(f"teacher.{part}" for part in teacher)]
    names = ["temp", *QUEUES]
    for part in order:
        names += [name for our in ours if our.startswith(f"{part}.") for name in _official(our)]
    if layout == "pretrain":
        return names
    names.insert(names.index("queue_ptr"), "idx_queue")
    return [name.replace(".bert.", ".") for name in names if ".cls.predictions." not in name]


def _official(our: str) -> list[str]:
    """Return a tensor's official name and those of the tied tensors next to it, in the official order."""
    owner, _, rest = our.partition(".")
    part, _, inner = rest.partition(".")
    root = f"{part}_m" if owner == "teacher" else part
    name = f"{root}.{inner}"
    if inner == "bert.embeddings.word_embeddings.weight":
        return [f"{root}.bert.embeddings.position_ids", name]
    if inner == "cls.predictions.transform.LayerNorm.bias":
        return [name, f"{root}.cls.predictions.decoder.weight", f"{root}.cls.predictions.decoder.bias"]
    return [name]


HEAD_WIDTH = 64
"""Width of an attention head in BERT and ViT, which a checkpoint does not record."""

FREE = ("model.image_size", "contrastive.queue_size")
"""Sizes that may differ from the file's: positions are resized, a queue of another size is initialised."""


def find_layout(tensors: Tensors, source: str) -> CheckpointLayout:
    """Return the layout of a file's tensors.

    Raises:
        WorkloadError: when they are of another model.
    """
    bert = "text_encoder.bert.embeddings.word_embeddings.weight" in tensors
    prefix = "text_encoder.bert." if bert else "text_encoder."
    needed = ["visual_encoder.patch_embed.proj.weight", "visual_encoder.pos_embed"]
    needed += [f"{prefix}embeddings.{kind}_embeddings.weight" for kind in ("word", "position")]
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise WorkloadError(f"{source} is no ALBEF checkpoint: it lacks {missing[0]}; {recognised(tensors)}")
    layers = _layers(tensors)
    text_layers = layers.index(True) if True in layers else len(layers)
    if not 0 < text_layers < len(layers) or not all(layers[text_layers:]):
        raise WorkloadError(
            f"{source} is no ALBEF checkpoint: {sum(layers)} of its {len(layers)} text layers attend to the image, but "
            "in ALBEF the lower ones do not and all above them do; it may be of BLIP, which has another architecture"
        )
    return CheckpointLayout(_layout_name(tensors, bert, text_layers, len(layers)), text_layers)


def find_config(tensors: Tensors, layout: CheckpointLayout, overrides: Mapping[str, Any], source: str) -> AlbefConfig:
    """Return the configuration of the model in a file.

    Args:
        tensors: of the file.
        layout: its layout.
        overrides: nested recipe values, added to those of the file or, for `FREE` sizes, replacing them.
        source: named in messages.

    Raises:
        WorkloadError: when the overrides are malformed, contradict the file or leave the number of heads open.
    """
    sizes = _sizes(tensors, layout, source)
    try:
        config = AlbefConfig.model_validate_json(json.dumps(deep_merge(deep_merge(sizes, _heads(sizes)), overrides)))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False)]
        raise WorkloadError(f"wrong values for {source}: {'; '.join(wrong)}") from error
    _check(sizes, config, source)
    return config


def _layers(tensors: Tensors) -> list[bool]:
    """Return for each text layer from the lowest up whether it attends to the image."""
    attends: dict[int, bool] = {}
    for name in tensors:
        layer = LAYER.fullmatch(name)
        if layer and name.startswith("text_encoder."):
            number = int(layer["number"])
            attends[number] = attends.get(number, False) or layer["after"].startswith(".crossattention.")
    return [attends[number] for number in sorted(attends)]


def _layout_name(tensors: Tensors, bert: bool, text_layers: int, layers: int) -> str:
    parts = {name.partition(".")[0] for name in tensors}
    if bert:
        return "pretrain"
    if "text_decoder" in parts:
        return "vqa"
    if "ta_head" in parts:
        return "nlvr_pretrain"
    if "cls_head" in parts:
        return "nlvr" if _shares_keys(tensors, text_layers, layers) else "ve"
    return "retrieval"


def _shares_keys(tensors: Tensors, text_layers: int, layers: int) -> bool:
    keys = [
        tensors.get(f"text_encoder.encoder.layer.{number}.crossattention.self.key.weight")
        for number in range(text_layers, layers)
    ]
    pairs = zip(keys[::2], keys[1::2], strict=False)
    return len(keys) % 2 == 0 and all(
        first is not None and second is not None and torch.equal(first, second) for first, second in pairs
    )


def _sizes(tensors: Tensors, layout: CheckpointLayout, source: str) -> dict[str, Any]:
    patches = tensors["visual_encoder.patch_embed.proj.weight"]
    positions = tensors["visual_encoder.pos_embed"]
    grid = grid_of(positions.shape[1]) if positions.ndim == 3 else None
    if grid is None or patches.ndim != 4:
        raise WorkloadError(f"{source}: visual_encoder.pos_embed is not of a square image, which the model needs")
    words = tensors[f"{layout.text_prefix}embeddings.word_embeddings.weight"]
    layers = len(_layers(tensors))
    model: dict[str, Any] = {
        "image_size": grid * patches.shape[-1],
        "vision": {"patch": patches.shape[-1], "width": len(patches), "depth": _blocks(tensors)},
        "text": {
            "width": words.shape[1],
            "layers": layout.text_layers,
            "fusion_layers": (layers - layout.text_layers) // (2 if layout.paired else 1),
            "vocabulary": len(words),
            "positions": len(tensors[f"{layout.text_prefix}embeddings.position_embeddings.weight"]),
        },
        "vision_weights": None,
        "text_weights": None,
    }
    if "vision_proj.weight" in tensors:
        model["embed_dim"] = len(tensors["vision_proj.weight"])
    queue = tensors.get("image_queue")
    return {"model": model, **({} if queue is None else {"contrastive": {"queue_size": queue.shape[1]}})}


def _blocks(tensors: Tensors) -> int:
    return len({name.split(".")[2] for name in tensors if name.startswith("visual_encoder.blocks.")})


def _heads(sizes: Mapping[str, Any]) -> dict[str, Any]:
    widths = {part: sizes["model"][part]["width"] for part in ("vision", "text")}
    heads = {part: {"heads": width // HEAD_WIDTH} for part, width in widths.items() if width % HEAD_WIDTH == 0}
    return {"model": heads}


def _check(sizes: Mapping[str, Any], config: AlbefConfig, source: str) -> None:
    configured = dict(_flat(config.model_dump(mode="json")))
    for key, size in _flat(sizes):
        if key not in FREE and configured[key] != size:
            raise WorkloadError(f"{key}={configured[key]}: the model in {source} has {size}; leave that out")
    for part in ("vision", "text"):
        width, given = sizes["model"][part]["width"], "heads" in getattr(config.model, part).model_fields_set
        heads = getattr(config.model, part).heads
        if not given or width % heads:
            raise WorkloadError(
                f"{source} does not say how many attention heads a width of {width} is divided into; "
                f"add model.{part}.heads=NUMBER, of which {width} is a multiple"
            )
    patch = config.model.vision.plain.patch
    if any(side % patch for side in config.model.image_hw):
        raise WorkloadError(f"model.image_size must be a multiple of the patch, {patch}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else key
        pairs += _flat(value, name) if isinstance(value, Mapping) else [(name, value)]
    return [pair for pair in pairs if not pair[0].endswith("_weights")]
