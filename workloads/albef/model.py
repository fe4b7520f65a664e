"""The modules of ALBEF: encoders, student, teacher and queue; and the trained student in inference.

The student's parameters are named as in the official checkpoints.

Shapes: B images or texts, T texts, R pairs, L text tokens, N image tokens, prefix tokens (class token) first, D text
width, C image width, P width of what stands for an image, E embedding width, h and w the grid of patches.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.albef.config import ComputeConfig, PairsConfig
from workloads.albef.locking import LockedParts
from workloads.albef.model_config import ModelConfig
from workloads.contract import KeyedRandom
from workloads.nn.bert import Bert, BertForMaskedLM, BertLayer, PairIndices, TokenSelection
from workloads.nn.momentum import FeatureQueue, init_teacher
from workloads.nn.packed_texts import PackedTexts, encode_packed, fuse_packed, in_full_rows, pack
from workloads.nn.timm_encoder import (
    EncoderShape,
    ImageOutputs,
    batch_norms,
    block_modules,
    create_encoder,
    encode_images,
    encoder_shape,
    probe,
    set_gradient_checkpointing,
)
from workloads.nn.vision import ImageFeatures, PixelNormalizer, TextFeatures, build_vision_transformer
from workloads.objectives.contrastive import at_least_float32


def build_image_encoder(config: ModelConfig) -> nn.Module:
    """Return the untrained image encoder of a recipe.

    Raises:
        WorkloadError: when timm has none of the recipe's name, or it does not take images of the recipe's size.
    """
    if config.vision.name is not None:
        return create_encoder(config.vision.name, config.image_hw)
    return build_vision_transformer(config.image_hw, *config.vision.plain)


def image_shape(config: ModelConfig, encoder: nn.Module | None = None) -> EncoderShape:
    """Return what the recipe's image encoder makes of an image.

    Args:
        config: of the model.
        encoder: the encoder, if it was built already.

    Raises:
        WorkloadError: when a named encoder cannot encode images of the recipe's size, or has no grid of tokens.
    """
    name, size = config.vision.name, config.image_hw
    if name is not None:
        return encoder_shape(name, size) if encoder is None else probe(name, size, encoder)
    plain = config.vision.plain
    grid = (size[0] // plain.patch, size[1] // plain.patch)
    return EncoderShape(plain.width, plain.width, grid, 1, "class token")


def build_text_encoder(config: ModelConfig, image_width: int) -> BertForMaskedLM:
    """Return the untrained text and fusion encoder of a recipe, with its masked-language head.

    Args:
        config: of the model.
        image_width: C.
    """
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
            image_width=image_width,
        )
    )


class Encoders(nn.Module):
    """The modules of both student and teacher: image encoder, text and fusion encoder, and their projections.

    The tokens of a named image encoder pass a LayerNorm on their way to the fusion layers, since some encoders end
    without one. Batch normalisation uses the statistics that it has: those of a micro-batch would make a pair's loss
    depend on the others.

    Args:
        config: sizes; heads must divide widths, the patch the image size.

    Attributes:
        image_shape: what the image encoder makes of an image.
        fixed: layers that stay in evaluation mode while training.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        memory_format = torch.contiguous_format if config.vision.name is None else torch.channels_last
        self.pixels = PixelNormalizer(*config.vision.pixel_statistics, memory_format)
        self.visual_encoder = build_image_encoder(config)
        self.image_shape = image_shape(config, self.visual_encoder)
        width = self.image_shape.width
        self.vision_norm = nn.Identity() if config.vision.name is None else nn.LayerNorm(width)
        self.vision_proj = nn.Linear(self.image_shape.pooled_width, config.embed_dim)
        self.text_encoder = build_text_encoder(config, width)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)
        self.text_pooling = config.text.pooling
        self.fixed: tuple[nn.Module, ...] = tuple(batch_norms(self.visual_encoder))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all layers but those that are fixed."""
        super().train(mode)
        for layer in self.fixed:
            layer.eval()
        return self

    @property
    def bert(self) -> Bert:
        """The text and fusion layers."""
        return self.text_encoder.bert

    def image_outputs(self, image_B3HW: Tensor) -> ImageOutputs:
        """Encode uint8 images, or floating-point images that are already normalised."""
        return encode_images(self.visual_encoder, self.pixels(image_B3HW))

    def image_tokens(self, image_B3HW: Tensor) -> Tensor:
        """Return what the fusion layers attend to, [B, N, C], of images as in `image_outputs`."""
        return self.fusion_tokens(self.image_outputs(image_B3HW))

    def fusion_tokens(self, images: ImageOutputs) -> Tensor:
        """Return what the fusion layers attend to, [B, N, C]."""
        tokens_BNC: Tensor = self.vision_norm(images.tokens_BNC)
        return tokens_BNC

    def image_embedding(self, pooled_BP: Tensor) -> Tensor:
        """Return unit vectors [B, E] of images."""
        return F.normalize(at_least_float32(self.vision_proj(pooled_BP)), dim=-1)

    def text_embedding(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Return unit vectors [B, E] of texts, whose tokens `mask_BL` is True at."""
        pooled_BD = states_BLD[:, 0] if self.text_pooling == "cls" else mean_of_tokens(states_BLD, mask_BL)
        return self.project_text(pooled_BD)

    def project_text(self, pooled_BD: Tensor) -> Tensor:
        """Return unit vectors [B, E] of what stands for texts."""
        return F.normalize(at_least_float32(self.text_proj(pooled_BD)), dim=-1)


def mean_of_tokens(states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean over the tokens of each text, [B, D]; padding, where the mask is False, is left out."""
    weight_BL1 = mask_BL[..., None].to(states_BLD.dtype)
    return (states_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)


class EncoderOutputs(NamedTuple):
    """Outputs of the encoders, before fusion.

    Args:
        words_TLD: word embeddings of the texts.
        states_TLD: states after the text layers.
        image_BNC: image tokens.
        pooled_BP: what stands for the images.
    """

    words_TLD: Tensor
    states_TLD: Tensor
    image_BNC: Tensor
    pooled_BP: Tensor


class Student(Encoders):
    """The trained model: the encoders, the matching head and the temperature."""

    def __init__(self, config: ModelConfig, temperature: float) -> None:
        super().__init__(config)
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temp = nn.Parameter(torch.tensor(temperature))

    def match_logits(self, states_RD: Tensor) -> Tensor:
        """Return logits [R, 2] of the fused [CLS] states of pairs; index 1 means match."""
        logits: Tensor = self.itm_head(states_RD)
        return logits

    @torch.no_grad()
    def clamp_temperature(self, bounds: tuple[float, float]) -> None:
        """Clamp the temperature to bounds, in place."""
        self.temp.clamp_(*bounds)


class AlbefModel(nn.Module):
    """Everything that training changes. Where masked language is not trained, the student's word head is locked.

    Args:
        config: the workload's recipe keys.
        draw: key of the initial weights.

    Attributes:
        locked: the parts of the encoders that the teacher shares with the student.
    """

    def __init__(self, config: PairsConfig, draw: KeyedRandom) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.child("weights").seed())
            self.student = Student(config.model, config.contrastive.temperature)
            self.teacher = Encoders(config.model)
            self.queue = FeatureQueue(
                config.model.embed_dim,
                config.contrastive.queue_size,
                draw.child("queue").torch(),
                identified=config.matches_by_image,
            )
        self.student.text_encoder.cls.requires_grad_(config.mask_probability > 0)
        self.locked = LockedParts(self.student, self.teacher, config.model.lock)
        self.register_load_state_dict_pre_hook(_fit_teacher)  # type: ignore[no-untyped-call]
        self.init_teacher()
        self.locked.check(self.student, self.teacher, config.model.image_hw)

    def init_teacher(self) -> None:
        """Give the teacher the student's weights."""
        init_teacher(self.teacher, self.student)

    @property
    def vision_blocks(self) -> list[nn.Module]:
        """The blocks that the image encoders of student and teacher have."""
        return block_modules(self.student.visual_encoder, self.teacher.visual_encoder)

    @property
    def bert_layers(self) -> list[BertLayer]:
        """The text and fusion layers that student and teacher have."""
        layers = [layer for encoders in (self.student, self.teacher) for layer in encoders.bert.encoder.layer]
        return [layer for layer in layers if isinstance(layer, BertLayer)]


def _fit_teacher(model: nn.Module, state: MutableMapping[str, Any], *_: object) -> None:
    """Adapt the state of a model with other locked parts: a teacher without weights of its own gets the student's."""
    own = model.get_submodule("teacher").state_dict()
    for name in [name for name in state if name.startswith("teacher.")]:
        if name.removeprefix("teacher.") not in own:
            del state[name]
    for name in own:
        source = state.get(f"student.{name}")
        if source is not None:
            state.setdefault(f"teacher.{name}", source)


def apply_compute(model: AlbefModel, config: ComputeConfig) -> None:
    """Apply the recipe's section `compute` to student and teacher; parameters and their names do not change.

    Raises:
        WorkloadError: when timm has no gradient checkpointing for the image encoder, and the recipe has it.
    """
    set_gradient_checkpointing(model.student.visual_encoder, config.gradient_checkpointing)
    for encoders in (model.student, model.teacher):
        encoders.bert.packed = config.packed
        encoders.bert.gradient_checkpointing = config.gradient_checkpointing
    if config.compile:
        _compile(model)


def _compile(model: AlbefModel) -> None:
    """Compile each layer: equal layers share compiled code, so that compilation time does not grow with depth.

    Hooks on a layer, for example those that record what locked layers compute, stay outside of the compiled code.
    """
    methods = [(block, "forward") for block in model.vision_blocks] + [
        (layer, method.__name__)
        for layer in model.bert_layers
        for method in (
            BertLayer.attend_text,
            BertLayer.attend_text_selected,
            BertLayer.attend_image,
            BertLayer.feed_forward,
        )
    ]
    for module, name in methods:
        setattr(module, name, torch.compile(getattr(module, name)))


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
        images = self.student.image_outputs(image_B3HW.to(self.device))
        return ImageFeatures(self.student.fusion_tokens(images), self.student.image_embedding(images.pooled_BP))

    @torch.no_grad()
    def encode_texts(self, input_ids_BL: Tensor, length_B: Tensor) -> TextFeatures:
        """Encode token ids, [CLS] first; the first `length_B[i]` of row i are tokens, the rest is padding."""
        input_ids_BL, length_B = input_ids_BL.to(self.device).long(), length_B.to(self.device)
        mask_BL = torch.arange(input_ids_BL.shape[1], device=self.device) < length_B[:, None]
        states_BLD = self.student.bert.encode(self.student.bert.words(input_ids_BL), mask_BL)
        return TextFeatures(states_BLD, mask_BL, self.student.text_embedding(states_BLD, mask_BL))

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
        states_SD, pooled_BD = encode_packed(self.student.bert, ids_S, length_B, self.student.text_pooling)
        return PackedTexts(states_SD, length_B), in_full_rows(self.student.project_text, pooled_BD)

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
        shape = self.student.image_shape
        masked_BLN = maps_BLN[..., shape.prefix_tokens :] * text.mask_BL[..., None]
        return masked_BLN.view(*masked_BLN.shape[:2], *shape.grid)

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
