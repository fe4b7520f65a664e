"""The names of tensors in official ALBEF checkpoints, and what they are called in our model.

There are six layouts: of pre-training, retrieval (grounding is the same), visual question answering, visual
entailment, NLVR2 and its pre-training. The text encoder of pre-training is called `text_encoder.bert`, of the others
`text_encoder`; those of NLVR2 have every fusion layer twice, with shared keys and values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from re import compile as pattern

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

QUEUES = ("image_queue", "text_queue", "queue_ptr")
BUFFERS = (*QUEUES, "idx_queue")
SHARED = ("temp", "visual_encoder", "vision_proj", "text_encoder", "text_proj", "itm_head")
ELSEWHERE = ("idx_queue", "text_decoder", "cls_head", "ta_head")
LAYER = pattern(r"(?P<before>text_encoder(?:_m)?\.(?:bert\.)?encoder\.layer\.)(?P<number>\d+)(?P<after>\..+)")
KEYS_AND_VALUES = (".crossattention.self.key.", ".crossattention.self.value.")


@dataclass(frozen=True, slots=True)
class Layout:
    """One of the official layouts.

    Args:
        name: as in `albef_keys_NAME`: pretrain, retrieval, vqa, ve, nlvr or nlvr_pretrain.
        text_layers: layers without attention to the image.
    """

    name: str
    text_layers: int

    @property
    def text_prefix(self) -> str:
        """What the names of the student's text encoder begin with."""
        return "text_encoder.bert." if self.name == "pretrain" else "text_encoder."

    @property
    def paired(self) -> bool:
        """Whether every fusion layer is there twice."""
        return self.name in ("nlvr", "nlvr_pretrain")

    def our_name(self, official: str) -> str | None:
        """Return where a tensor lives in our model, or None when the model has no place for it."""
        if official in QUEUES:
            return f"queue.{official}"
        part, _, rest = official.partition(".")
        base, owner = part.removesuffix("_m"), "teacher" if part.endswith("_m") else "student"
        if base not in SHARED or (self.paired and self._is_second(official)):
            return None
        if base == "text_encoder":
            rest = self._in_bert(official, rest)
        return ".".join(filter(None, [owner, base, rest]))

    def known(self, official: str) -> bool:
        """Return whether a tensor without a place in our model belongs to the layout."""
        base = official.partition(".")[0].removesuffix("_m")
        return base in ELSEWHERE or (self.paired and self._is_second(official))

    def derived(self, official: str, tensors: Tensors) -> Tensor | None:
        """Return what a tensor must be given the others, or None when it stands for itself."""
        if official.endswith(".embeddings.position_ids"):
            positions = tensors.get(official.replace("position_ids", "position_embeddings.weight"))
            return None if positions is None else torch.arange(len(positions))[None]
        source = self._tied_to(official)
        return None if source is None else tensors.get(source)

    def _tied_to(self, official: str) -> str | None:
        head, found, kind = official.partition(".cls.predictions.decoder.")
        if found:
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
        tied: names of tensors that are another parameter under a second name, or no parameter.
    """
    trained = [
        name
        for name in names
        if not name.endswith((*BUFFERS, "position_ids")) and name not in tied and not _of_teacher(name)
    ]
    spared = [name for name in trained if is_spared(name, shapes[name])]
    return spared + [name for name in trained if name not in set(spared)]


def _of_teacher(name: str) -> bool:
    return name.partition(".")[0].endswith("_m")


def is_spared(name: str, shape: torch.Size) -> bool:
    """Return whether a parameter is spared weight decay."""
    return len(shape) == 1 or name.endswith(".bias")


def canonical_names(ours: Collection[str]) -> list[str]:
    """Return the names of the pre-training layout for all tensors of our model, in the official order.

    Args:
        ours: the names of the model's state_dict, in its order.
    """
    encoders = ["visual_encoder", "text_encoder", "vision_proj", "text_proj"]
    teacher = ["visual_encoder", "vision_proj", "text_encoder", "text_proj"]
    order = [*(f"student.{part}" for part in [*encoders, "itm_head"]), *(f"teacher.{part}" for part in teacher)]
    names = ["temp", *QUEUES]
    for part in order:
        names += [name for our in ours if our.startswith(f"{part}.") for name in _official(our)]
    return names


def _official(our: str) -> list[str]:
    """Return a tensor's official name, with those of its copies where they stand."""
    owner, _, rest = our.partition(".")
    part, _, inner = rest.partition(".")
    root = f"{part}_m" if owner == "teacher" else part
    name = f"{root}.{inner}"
    if inner == "bert.embeddings.word_embeddings.weight":
        return [f"{root}.bert.embeddings.position_ids", name]
    if inner == "cls.predictions.transform.LayerNorm.bias":
        return [name, f"{root}.cls.predictions.decoder.weight", f"{root}.cls.predictions.decoder.bias"]
    return [name]
