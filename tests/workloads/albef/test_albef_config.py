import json
from typing import Any

import pytest
from pydantic import ValidationError

from workloads.albef.config import AlbefConfig


def read(**values: Any) -> AlbefConfig:
    """Validated as the recipe is: through JSON, strictly."""
    return AlbefConfig.model_validate_json(json.dumps(values))


def test_nothing_said_means_the_paper() -> None:
    model = read().model
    assert (model.preset, model.image_size, model.embed_dim, model.dropout) == ("base", 256, 256, 0.1)
    assert (model.vision.patch, model.vision.width, model.vision.depth, model.vision.heads) == (16, 768, 12, 12)
    assert (model.text.width, model.text.layers, model.text.fusion_layers, model.text.heads) == (768, 6, 6, 12)
    assert read().contrastive.queue_size == 65536


@pytest.mark.parametrize(
    ("preset", "image_size", "vision", "text"),
    [("mini", 128, (16, 384, 6), (384, 3, 3)), ("tiny", 64, (8, 128, 3), (384, 1, 1))],
)
def test_a_preset_shows_its_numbers(
    preset: str, image_size: int, vision: tuple[int, ...], text: tuple[int, ...]
) -> None:
    config = read(model={"preset": preset})
    assert config.model.image_size == image_size
    assert (config.model.vision.patch, config.model.vision.width, config.model.vision.depth) == vision
    assert (config.model.text.width, config.model.text.layers, config.model.text.fusion_layers) == text
    assert config.model.text_weights == config.text.tokenizer == "minilm"
    assert config.model.vision_weights is None


def test_the_recipe_wins_over_the_preset() -> None:
    config = read(
        model={"preset": "tiny", "vision": {"depth": 2}, "text_weights": None},
        text={"tokenizer": "words.json"},
        contrastive={"queue_size": 64},
    )
    assert (config.model.vision.depth, config.model.vision.width) == (2, 128)
    assert config.model.text_weights is None
    assert config.text.tokenizer == "words.json"
    assert config.contrastive.queue_size == 64


def test_with_a_timm_name_come_size_and_statistics_but_not_over_the_recipe() -> None:
    named = {"name": "convnext_atto.d2_in1k", "std": [0.5, 0.5, 0.5], "depth": 5}
    model = read(model={"preset": "tiny", "vision": named}).model
    assert (model.image_size, model.vision_weights) == (224, "convnext_atto.d2_in1k")
    assert (model.vision.mean, model.vision.std) == ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))
    assert (model.vision.patch, model.vision.width, model.vision.depth, model.vision.heads) == (None, None, 5, None)
    assert read(model={"image_size": [96, 64], "vision": {"name": "convnext_atto"}}).model.image_hw == (96, 64)


@pytest.mark.parametrize("preset", ["base", "mini", "tiny"])
def test_a_resolved_recipe_reads_back_the_same(preset: str) -> None:
    config = read(model={"preset": preset, "vision": {"name": "deit_tiny_patch16_224"}})
    assert AlbefConfig.model_validate_json(config.model_dump_json()) == config
    assert AlbefConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"model": {"preset": "tinny"}}, ("model", "preset")),
        ({"model": {"preset": ["tiny"]}}, ("model", "preset")),
        ({"model": 3}, ("model",)),
        ({"model": {"vision": 3}}, ("model", "vision")),
        ({"model": {"vision": {"name": 3}}}, ("model", "vision", "name")),
        ({"model": {"image_size": [64, 0]}}, ("model", "image_size")),
        ({"model": {"vision": {"depth": 0}}}, ("model", "vision", "depth")),
        ({"model": {"text": {"layers": "2"}}}, ("model", "text", "layers")),
        ({"augment": {"crop_scale": [0.9, 0.2]}}, ("augment", "crop_scale")),
        ({"augment": {"rand_augment": {"magnitude": 11}}}, ("augment", "rand_augment", "magnitude")),
        ({"contrastive": {"temperature_range": [0.5, 0.1]}}, ("contrastive", "temperature_range")),
        ({"masking": {"probability": 0}}, ("masking", "probability")),
        ({"distillation": {"alpha": 1.5}}, ("distillation", "alpha")),
        ({"adversarial": {"perturb": ["sound"]}}, ("adversarial", "perturb", 0)),
        ({"adversarial": {"active": [0.5, 0.5]}}, ("adversarial", "active")),
        ({"adversarial": {"step_sise": 1}}, ("adversarial", "step_sise")),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(values: Any, place: tuple[str | int, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**values)
    assert [error["loc"] for error in caught.value.errors()] == [place]
