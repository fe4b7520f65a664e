"""The modules of ALBEF: encoders, student, teacher and queue; and the trained student in inference.

The student's parameters are named as in the official checkpoints.

Shapes: B images or texts, T texts, R pairs, L text tokens, N image tokens with the class token first, D text width,
C image width, E embedding width, h and w the grid of patches.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.albef.config import AlbefConfig, ComputeConfig, ModelConfig
from workloads.contract import KeyedRandom
from workloads.nn.bert import Bert, BertForMaskedLM, BertLayer, PairIndices, TokenSelection
from workloads.nn.momentum import FeatureQueue, init_teacher
from workloads.nn.packed_texts import PackedTexts, encode_packed, fuse_packed, in_full_rows, pack
from workloads.nn.vision import ImageFeatures, PixelNormalizer, TextFeatures, build_vision_transformer, image_tokens
from workloads.objectives.contrastive import at_least_float32


def build_image_encoder(config: ModelConfig) -> nn.Module:
    """Return the untrained image encoder of a recipe."""
    vision = config.vision
    return build_vision_transformer(
        config.image_size, vision.patch, vision.width, vision.depth, vision.heads, vision.norm_epsilon
    )


def build_text_encoder(config: ModelConfig) -> BertForMaskedLM:
    """Return the untrained text and fusion encoder of a recipe, with its masked-language head."""
    text = config.text
    return BertForMaskedLM(
        Bert(
            vocabulary=text.vocabulary,
            positions=text.positions,
            width=text.width,
            layers=text.layers,
            fusion_layers=text.fusion_layers,
            heads=text.heads,
            dropout=config.dropout,
            image_width=config.vision.width,
        )
    )


class Encoders(nn.Module):
    """The modules of both student and teacher: image encoder, text and fusion encoder, and their projections.

    Args:
        config: sizes; heads must divide widths, the patch the image size.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pixels = PixelNormalizer(config.vision.mean, config.vision.std)
        self.visual_encoder = build_image_encoder(config)
        self.vision_proj = nn.Linear(config.vision.width, config.embed_dim)
        self.text_encoder = build_text_encoder(config)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)

    @property
    def bert(self) -> Bert:
        """The text and fusion layers."""
        return self.text_encoder.bert

    def image_tokens(self, image_B3HW: Tensor) -> Tensor:
        """Return [B, N, C] of uint8 images, or of floating-point images that are already normalised."""
        return image_tokens(self.visual_encoder, self.pixels(image_B3HW))

    def image_embedding(self, tokens_BNC: Tensor) -> Tensor:
        """Return unit vectors [B, E] of images."""
        return F.normalize(at_least_float32(self.vision_proj(tokens_BNC[:, 0])), dim=-1)

    def text_embedding(self, states_BLD: Tensor) -> Tensor:
        """Return unit vectors [B, E] of texts."""
        return F.normalize(at_least_float32(self.text_proj(states_BLD[:, 0])), dim=-1)


class EncoderOutputs(NamedTuple):
    """Outputs of the encoders, before fusion.

    Args:
        words_TLD: word embeddings of the texts.
        states_TLD: states after the text layers.
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

    def encode(self, image_B3HW: Tensor, input_ids_TL: Tensor, mask_TL: Tensor) -> EncoderOutputs:
        """Run the image encoder and the text layers."""
        words_TLD = self.bert.words(input_ids_TL)
        return EncoderOutputs(words_TLD, self.bert.encode(words_TLD, mask_TL), self.image_tokens(image_B3HW))

    def match_logits(self, states_RD: Tensor) -> Tensor:
        """Return logits [R, 2] of the fused [CLS] states of pairs; index 1 means match."""
        logits: Tensor = self.itm_head(states_RD)
        return logits

    @torch.no_grad()
    def clamp_temperature(self, bounds: tuple[float, float]) -> None:
        """Clamp the temperature to bounds, in place."""
        self.temp.clamp_(*bounds)


class AlbefModel(nn.Module):
    """Everything that training changes.

    Args:
        config: the workload's recipe keys.
        draw: key of the initial weights.
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
        self.init_teacher()

    def init_teacher(self) -> None:
        """Give the teacher the student's weights."""
        init_teacher(self.teacher, self.student)


def apply_compute(model: AlbefModel, config: ComputeConfig) -> None:
    """Apply the recipe's section `compute` to student and teacher; parameters and their names do not change."""
    for encoders in (model.student, model.teacher):
        encoders.bert.packed = config.packed
        encoders.bert.gradient_checkpointing = config.gradient_checkpointing
        cast(VisionTransformer, encoders.visual_encoder).set_grad_checkpointing(config.gradient_checkpointing)
        if config.compile:
            _compile(encoders)


def _compile(encoders: Encoders) -> None:
    """Compile each layer: equal layers share compiled code, so that compilation time does not grow with depth."""
    for block in cast(nn.ModuleList, encoders.visual_encoder.blocks):
        block.compile()
    for layer in encoders.bert.encoder.layer:
        for name in (
            BertLayer.attend_text,
            BertLayer.attend_text_selected,
            BertLayer.attend_image,
            BertLayer.feed_forward,
        ):
            setattr(layer, name.__name__, torch.compile(getattr(layer, name.__name__)))


class AlbefInference:
    """A student in inference: it encodes, scores pairs and shows attention, without dropout or stored gradients.

    Where a method takes texts and images, row i of one belongs to row i of the other.

    Args:
        student: in evaluation mode; see `AlbefInference.eval_mode` for one that is being trained.
        config: sizes of the model.
    """

    def __init__(self, student: Student, config: ModelConfig) -> None:
        self.student = student
        self.config = config

    @classmethod
    @contextmanager
    def eval_mode(cls, student: Student, config: ModelConfig) -> Iterator[AlbefInference]:
        """Put a student into evaluation mode inside the context, and back into its mode afterwards."""
        training = student.training
        student.eval()
        try:
            yield cls(student, config)
        finally:
            student.train(training)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.student.temp.device

    @torch.no_grad()
    def encode_images(self, image_B3HW: Tensor) -> ImageFeatures:
        """Encode uint8 images of the model's size."""
        tokens_BNC = self.student.image_tokens(image_B3HW.to(self.device))
        return ImageFeatures(tokens_BNC, self.student.image_embedding(tokens_BNC))

    @torch.no_grad()
    def encode_texts(self, input_ids_BL: Tensor, length_B: Tensor) -> TextFeatures:
        """Encode token ids, [CLS] first; the first `length_B[i]` of row i are tokens, the rest is padding."""
        input_ids_BL, length_B = input_ids_BL.to(self.device).long(), length_B.to(self.device)
        mask_BL = torch.arange(input_ids_BL.shape[1], device=self.device) < length_B[:, None]
        states_BLD = self.student.bert.encode(self.student.bert.words(input_ids_BL), mask_BL)
        return TextFeatures(states_BLD, mask_BL, self.student.text_embedding(states_BLD))

    @torch.no_grad()
    def match_scores(self, text: TextFeatures, image: ImageFeatures) -> Tensor:
        """Return matching logits [B, 2] of text i with image i; index 1 means match."""
        return self._match(text, image, None)

    @torch.no_grad()
    def pack_texts(self, input_ids_BL: Tensor, length_B: Tensor) -> tuple[PackedTexts, Tensor]:
        """Encode zero-padded token ids for `match_grouped`; return also unit vectors [B, E].

        What a text gives does not depend on the texts beside it.
        """
        length_B = length_B.cpu().long()
        ids_S = pack(input_ids_BL.to(self.device).long(), length_B)
        states_SD, cls_BD = encode_packed(self.student.bert, ids_S, length_B)
        embed = self.student.text_embedding
        return PackedTexts(states_SD, length_B), in_full_rows(lambda rows_TD: embed(rows_TD[:, None]), cls_BD)

    @torch.no_grad()
    def match_grouped(self, texts: PackedTexts, image_NC: Tensor) -> Tensor:
        """Return matching logits [T, 2] of every text with one image: those of `match_scores`, up to rounding."""
        fused_TD = fuse_packed(self.student.bert, texts.states_SD, texts.length_T, image_NC)
        return in_full_rows(self.student.match_logits, fused_TD)

    def word_attention(self, input_ids_BL: Tensor, length_B: Tensor, image_B3HW: Tensor) -> Tensor:
        """Return where each token of text i attends in image i, [B, L, h, w], non-negative, 0 at padding.

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
        tokens = TokenSelection(*text.mask_BL.nonzero(as_tuple=True))
        record: list[Tensor] = []
        pairs = PairIndices.one_to_one(len(text.mask_BL), self.device)
        self.student.bert.fuse(text.states_BLD, text.mask_BL, image.tokens_BND, pairs, tokens, record)
        maps_P1N = record[-1].mean(1)
        maps_BLN = maps_P1N.new_zeros(*text.mask_BL.shape, maps_P1N.shape[-1])
        maps_BLN[text.mask_BL] = maps_P1N[:, 0]
        return maps_BLN

    def _match(self, text: TextFeatures, image: ImageFeatures, record: list[Tensor] | None) -> Tensor:
        rows = len(text.states_BLD)
        pairs, tokens = PairIndices.one_to_one(rows, self.device), TokenSelection.cls_tokens(rows, self.device)
        fused_BD = self.student.bert.fuse(text.states_BLD, text.mask_BL, image.tokens_BND, pairs, tokens, record)
        return self.student.match_logits(fused_BD)
