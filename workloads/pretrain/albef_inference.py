"""A trained ALBEF model without its training parts.

Shapes: B images or texts (row i of one belongs to row i of the other), L text tokens, N image tokens with the class
token first, E embedding width, h and w patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from workloads.nn.bert import Meetings, Wanted
from workloads.nn.features import ImageFeatures, TextFeatures
from workloads.pretrain.albef_config import ModelConfig
from workloads.pretrain.albef_model import Student


class AlbefInference:
    """Encodes, compares and explains, without dropout and without leaving gradients behind.

    Args:
        student: in evaluation mode; `AlbefInference.of` puts it there for a while.
        config: its sizes.
    """

    def __init__(self, student: Student, config: ModelConfig) -> None:
        self.student = student
        self.config = config

    @classmethod
    @contextmanager
    def of(cls, student: Student, config: ModelConfig) -> Iterator[AlbefInference]:
        """Borrow a student that is being trained; it returns to its mode afterwards."""
        training = student.training
        student.eval()
        try:
            yield cls(student, config)
        finally:
            student.train(training)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.student.temp.device

    @torch.no_grad()
    def encode_images(self, image_B3HW: Tensor) -> ImageFeatures:
        """Encode uint8 images of the model's size."""
        tokens_BNC = self.student.image_tokens(image_B3HW.to(self.device))
        return ImageFeatures(tokens_BNC, self.student.image_embedding(tokens_BNC))

    @torch.no_grad()
    def encode_texts(self, input_ids_BL: Tensor, length_B: Tensor) -> TextFeatures:
        """Encode token ids, [CLS] first, of which row i counts the first `length_B[i]`."""
        input_ids_BL, length_B = input_ids_BL.to(self.device).long(), length_B.to(self.device)
        mask_BL = torch.arange(input_ids_BL.shape[1], device=self.device) < length_B[:, None]
        states_BLD = self.student.bert.encode(self.student.bert.words(input_ids_BL), mask_BL)
        return TextFeatures(states_BLD, mask_BL, self.student.text_embedding(states_BLD))

    @torch.no_grad()
    def match_scores(self, text: TextFeatures, image: ImageFeatures) -> Tensor:
        """Return matching logits [B, 2] of text i with image i; index 1 means match."""
        return self._match(text, image, None)

    def word_attention(self, input_ids_BL: Tensor, length_B: Tensor, image_B3HW: Tensor) -> Tensor:
        """Return where each token of text i looks in image i, [B, L, h, w], non-negative, 0 at padding.

        Grad-CAM on the attention of the middle fusion layer (ALBEF, visual grounding: the third of six):
        probabilities times the positive part of the matching logit's gradient in them, averaged over heads. With a
        single fusion layer only [CLS] has such a gradient, so the words' plain attention is returned.
        """
        text, image = self.encode_texts(input_ids_BL, length_B), self.encode_images(image_B3HW)
        single = self.config.text.fusion_layers == 1
        maps_BLN = self._plain_attention(text, image) if single else self._grad_cam(text, image)
        side = self.config.image_size // self.config.vision.patch
        masked_BLN = maps_BLN[..., 1:] * text.mask_BL[..., None]
        return masked_BLN.view(*masked_BLN.shape[:2], side, side)

    @torch.enable_grad()
    def _grad_cam(self, text: TextFeatures, image: ImageFeatures) -> Tensor:
        record: list[Tensor] = []
        match = self._match(text, image, record)[:, 1].sum()
        attention_BHLN = record[(len(record) - 1) // 2]
        (gradient_BHLN,) = torch.autograd.grad(match, attention_BHLN)
        return (attention_BHLN.detach() * gradient_BHLN.relu()).mean(1)

    @torch.no_grad()
    def _plain_attention(self, text: TextFeatures, image: ImageFeatures) -> Tensor:
        every = Wanted(*text.mask_BL.nonzero(as_tuple=True))
        record: list[Tensor] = []
        meetings = Meetings.one_to_one(len(text.mask_BL), self.device)
        self.student.bert.fuse(text.states_BLD, text.mask_BL, image.tokens_BND, meetings, every, record)
        maps_P1N = record[-1].mean(1)
        maps_BLN = maps_P1N.new_zeros(*text.mask_BL.shape, maps_P1N.shape[-1])
        maps_BLN[text.mask_BL] = maps_P1N[:, 0]
        return maps_BLN

    def _match(self, text: TextFeatures, image: ImageFeatures, record: list[Tensor] | None) -> Tensor:
        rows = len(text.states_BLD)
        meetings, wanted = Meetings.one_to_one(rows, self.device), Wanted.first(rows, self.device)
        fused_BD = self.student.bert.fuse(text.states_BLD, text.mask_BL, image.tokens_BND, meetings, wanted, record)
        return self.student.match_logits(fused_BD)
