"""Locked parts of the encoders: what the recipe's `model.lock` means for student and teacher.

A locked part keeps its initial weights. It takes no gradient and no optimizer state, runs without dropout, and the
teacher shares what the student computed with it: the teacher has no copy of the part and does not run it.

Shapes: B images, T texts, L text tokens, D text width, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from workloads.albef.config import LockConfig
from workloads.nn.locking import SharedOutputs, share_locked
from workloads.nn.timm_encoder import ImageOutputs, block_parameters

if TYPE_CHECKING:
    from workloads.albef.model import Encoders, Student


class FirstOutputs(NamedTuple):
    """What the student computes before it is the teacher's turn.

    Args:
        images: of the image encoder.
        words_TLD: word embeddings.
        lower_TLD: states after the locked text layers; None when the text encoder is not locked.
    """

    images: ImageOutputs
    words_TLD: Tensor
    lower_TLD: Tensor | None


class LockedParts:
    """Locks the parts that a recipe names and takes them from the teacher; then gives it the student's outputs.

    Args:
        student: whose parameters are locked.
        teacher: which loses them.
        config: the recipe's section.
    """

    def __init__(self, student: Encoders, teacher: Encoders, config: LockConfig) -> None:
        self._whole_vision = config.vision == "all"
        self._vision: SharedOutputs | None = None
        if config.vision == "all":
            student.visual_encoder.requires_grad_(False)
            teacher.visual_encoder = nn.Identity()
        elif config.vision is not None:
            locked = block_parameters(student.visual_encoder)[: -config.vision]
            names = [name for block in locked for name in block]
            self._vision = share_locked(student.visual_encoder, teacher.visual_encoder, names)
        self._text_layers = _locked_text_layers(student, config)
        if self._text_layers is not None:
            _lock_text(student, teacher, self._text_layers)
        student.fixed += tuple(_locked_modules(student))

    def first_outputs(
        self, student: Student, image_B3HW: Tensor, input_ids_TL: Tensor, mask_TL: Tensor
    ) -> FirstOutputs:
        """Run the student's image encoder, whose locked layers the teacher shares, and its locked text layers."""
        with self._recording():
            images = student.image_outputs(image_B3HW)
        words_TLD, layers = student.bert.words(input_ids_TL), self._text_layers
        lower_TLD = None if layers is None else student.bert.encode_lower(words_TLD, mask_TL, layers)
        return FirstOutputs(images, words_TLD, lower_TLD)

    def student_states(self, student: Student, first: FirstOutputs, mask_TL: Tensor) -> Tensor:
        """Return the student's states after the text layers, [T, L, D]."""
        if first.lower_TLD is None or self._text_layers is None:
            return student.bert.encode(first.words_TLD, mask_TL)
        return student.bert.encode_upper(first.lower_TLD, mask_TL, self._text_layers)

    def teacher_images(self, teacher: Encoders, image_B3HW: Tensor, first: FirstOutputs) -> ImageOutputs:
        """Return the teacher's outputs for the images of `first`."""
        return first.images if self._whole_vision else teacher.image_outputs(image_B3HW)

    def teacher_states(
        self, teacher: Encoders, input_ids_TL: Tensor, mask_TL: Tensor, first: FirstOutputs, rows: slice
    ) -> Tensor:
        """Return the teacher's states after the text layers, of some of the texts of `first`."""
        if first.lower_TLD is None or self._text_layers is None:
            return teacher.bert.encode(teacher.bert.words(input_ids_TL[rows]), mask_TL[rows])
        return teacher.bert.encode_upper(first.lower_TLD[rows], mask_TL[rows], self._text_layers)

    def teacher_words(self, student: Student) -> Tensor | None:
        """Return the student's word embeddings [V, D] where the teacher has none."""
        return None if self._text_layers is None else student.bert.embeddings.word_embeddings.weight

    def _recording(self) -> AbstractContextManager[None]:
        return nullcontext() if self._vision is None else self._vision.recording()


def _locked_text_layers(student: Encoders, config: LockConfig) -> int | None:
    """Return how many text layers are locked, above the word embeddings; None for neither."""
    if config.text is None:
        return None
    return student.bert.text_layers - (0 if config.text == "all" else config.text)


def _lock_text(student: Encoders, teacher: Encoders, layers: int) -> None:
    student.bert.embeddings.requires_grad_(False)
    teacher.bert.set_submodule("embeddings", nn.Identity())
    for number in range(layers):
        student.bert.encoder.layer[number].requires_grad_(False)
        teacher.bert.encoder.layer[number] = nn.Identity()


def _locked_modules(student: Encoders) -> list[nn.Module]:
    """Return the modules without a trained parameter."""
    return [
        module
        for module in student.modules()
        if next(module.parameters(), None) is not None
        and not any(parameter.requires_grad for parameter in module.parameters())
    ]
