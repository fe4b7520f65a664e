"""The modules of ALBEF: encoders, student, teacher and queue.

The student's parameters are named as in the official checkpoints.

Shapes: B images or texts, T texts, R pairs, L text tokens, N image tokens with the class token first, D text width,
C image width, E embedding width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.contract import KeyedRandom
from workloads.nn.bert import Bert
from workloads.nn.heads import BertWithHead
from workloads.nn.momentum import start_teacher
from workloads.nn.queue import FeatureQueue
from workloads.nn.vision import PixelNormalizer, build_vision_transformer, image_tokens
from workloads.objectives.distillation import at_least_float32
from workloads.pretrain.albef_config import AlbefConfig, ModelConfig


class Encoders(nn.Module):
    """What student and teacher have in common: image encoder, text and fusion encoder, and their projections.

    Args:
        config: sizes; heads must divide widths, the patch the image size.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        vision, text = config.vision, config.text
        self.pixels = PixelNormalizer()
        self.visual_encoder = build_vision_transformer(
            config.image_size, vision.patch, vision.width, vision.depth, vision.heads
        )
        self.vision_proj = nn.Linear(vision.width, config.embed_dim)
        self.text_encoder = BertWithHead(
            Bert(
                vocabulary=text.vocabulary,
                positions=text.positions,
                width=text.width,
                layers=text.layers,
                fusion_layers=text.fusion_layers,
                heads=text.heads,
                dropout=config.dropout,
                image_width=vision.width,
            )
        )
        self.text_proj = nn.Linear(text.width, config.embed_dim)

    @property
    def bert(self) -> Bert:
        """The text and fusion layers."""
        return self.text_encoder.bert

    def image_tokens(self, image_B3HW: Tensor) -> Tensor:
        """Return [B, N, C] of uint8 images, or of floating-point ones that are normalised already."""
        return image_tokens(self.visual_encoder, self.pixels(image_B3HW))

    def image_embedding(self, tokens_BNC: Tensor) -> Tensor:
        """Return unit vectors [B, E] of images."""
        return F.normalize(at_least_float32(self.vision_proj(tokens_BNC[:, 0])), dim=-1)

    def text_embedding(self, states_BLD: Tensor) -> Tensor:
        """Return unit vectors [B, E] of texts."""
        return F.normalize(at_least_float32(self.text_proj(states_BLD[:, 0])), dim=-1)


class Encoded(NamedTuple):
    """Texts and images before they meet.

    Args:
        words_TLD: word embeddings of the texts.
        states_TLD: after the text layers.
        image_BNC: image tokens.
    """

    words_TLD: Tensor
    states_TLD: Tensor
    image_BNC: Tensor


class Student(Encoders):
    """The trained model: the encoders, the matching head and the temperature."""

    def __init__(self, config: ModelConfig, temperature: float) -> None:
        super().__init__(config)
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temp = nn.Parameter(torch.tensor(temperature))

    def encode(self, image_B3HW: Tensor, input_ids_TL: Tensor, mask_TL: Tensor) -> Encoded:
        """Run the image encoder and the text layers."""
        words_TLD = self.bert.words(input_ids_TL)
        return Encoded(words_TLD, self.bert.encode(words_TLD, mask_TL), self.image_tokens(image_B3HW))

    def match_logits(self, states_RD: Tensor) -> Tensor:
        """Return [R, 2] of the fused [CLS] states of pairs; index 1 means that text and image match."""
        logits: Tensor = self.itm_head(states_RD)
        return logits

    @torch.no_grad()
    def clamp_temperature(self, bounds: tuple[float, float]) -> None:
        """Keep the temperature within bounds, in place."""
        self.temp.clamp_(*bounds)


class AlbefModel(nn.Module):
    """Everything that training changes.

    Args:
        config: the recipe's part.
        draw: randomness of untrained weights.
    """

    def __init__(self, config: AlbefConfig, draw: KeyedRandom) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.child("weights").seed())
            self.student = Student(config.model, config.contrastive.temperature)
            self.teacher = Encoders(config.model)
            self.queue = FeatureQueue(
                config.model.embed_dim, config.contrastive.queue_size, draw.child("queue").torch()
            )
        self.start_teacher()

    def start_teacher(self) -> None:
        """Give the teacher the student's weights."""
        start_teacher(self.teacher, self.student)
