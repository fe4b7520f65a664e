"""What a recipe's model is, in words: for the user, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from workloads.albef.config import PairsConfig
from workloads.albef.model import AlbefModel, Student
from workloads.contract import KeyedRandom
from workloads.interop.named_encoder import UNTRAINED_STATISTICS
from workloads.nn.meta import without_values
from workloads.nn.timm_encoder import batch_norms


def describe_model(config: PairsConfig) -> Iterator[str]:
    """Yield what the image encoder makes of an image, and how many parameters are trained and locked.

    Raises:
        WorkloadError: when the recipe's model cannot be made.
    """
    model = without_values(lambda: AlbefModel(config, KeyedRandom(("description",))))
    student, vision = model.student, config.model.vision
    height, width = config.model.image_hw
    yield f"{vision.name or 'the ViT'} makes of {height} x {width} pixels {student.image_shape}"
    trained, total = _trained(student), _total(student)
    yield (
        f"{trained:,} of {total:,} parameters are trained{_locked(student) if trained < total else ''}; the teacher "
        f"has {_total(model.teacher):,} of its own"
    )
    if vision.name is not None and config.model.vision_weights is None and batch_norms(student.visual_encoder):
        yield UNTRAINED_STATISTICS


def _locked(student: Student) -> str:
    parts = {
        "the image encoder": student.visual_encoder,
        "the word embeddings": student.bert.embeddings,
        "the text layers": nn.ModuleList(student.bert.encoder.layer[: student.bert.text_layers]),
        "the word head": student.text_encoder.cls,
    }
    counts = {name: (_total(part) - _trained(part), _total(part)) for name, part in parts.items()}
    texts = [f"{locked:,} of {total:,} in {name}" for name, (locked, total) in counts.items() if locked]
    return f", locked are {' and '.join(texts)}"


def _total(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _trained(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
